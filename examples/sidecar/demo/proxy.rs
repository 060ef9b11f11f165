//! Outrider as a child process, with the sidecar's file.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Error;

/// The first argument that makes this program the proxy.
const BE_THE_PROXY: &str = "--as-outrider";
const CONFIG: &str = include_str!("../envoy.yaml");

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    folder: PathBuf,
    admin: SocketAddr,
    pub(crate) listener: SocketAddr,
    pub(crate) started_in: Duration,
}

/// Runs the proxy in this process if the arguments say so.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next()? == BE_THE_PROXY)
        .then(|| outrider::run("outrider", &arguments.collect::<Vec<_>>()))
}

impl Proxy {
    /// Starts the proxy with the file as it is, but for ports and the DNS server, and waits until it is ready.
    pub(crate) async fn start(greeter_port: u16, dns: SocketAddr) -> Result<Proxy, Error> {
        let folder = std::env::temp_dir().join(format!("outrider-sidecar-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let file = folder.join("envoy.yaml");
        fs::write(&file, adapt(CONFIG, greeter_port))?;
        let resolver = format!(
            "typed_dns_resolver_config: {{name: envoy.network.dns_resolver.cares, typed_config: {{\
             \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, \
             resolvers: [{{socket_address: {{address: {}, port_value: {}}}}}]}}}}",
            dns.ip(),
            dns.port(),
        );
        println!("   --config-yaml '{resolver}'");
        let admin_file = folder.join("admin");
        let started = Instant::now();
        let child = Command::new(std::env::current_exe()?)
            .arg(BE_THE_PROXY)
            .args(["--concurrency", "2", "-l", "info", "--log-path"])
            .arg(folder.join("log"))
            .arg("--admin-address-path")
            .arg(&admin_file)
            .arg("-c")
            .arg(&file)
            .args(["--config-yaml", &resolver])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut proxy = Proxy {
            child,
            folder,
            admin: nowhere,
            listener: nowhere,
            started_in: Duration::ZERO,
        };
        while !proxy.is_ready(&admin_file).await? {
            if started.elapsed() > Duration::from_secs(10) {
                let log = fs::read_to_string(proxy.folder.join("log")).unwrap_or_default();
                return Err(format!("the proxy is not ready after 10 s; its log:\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        proxy.started_in = started.elapsed();
        let listeners = proxy.get("/listeners").await?;
        let (_, address) = listeners.trim().split_once("::").ok_or("no listener")?;
        proxy.listener = address.parse()?;
        Ok(proxy)
    }

    async fn is_ready(&mut self, admin_file: &PathBuf) -> Result<bool, Error> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("the proxy ended: {status}").into());
        }
        let Ok(admin) = fs::read_to_string(admin_file) else {
            return Ok(false);
        };
        let Ok(admin) = admin.trim().parse::<SocketAddr>() else {
            return Ok(false);
        };
        self.admin = SocketAddr::from(([127, 0, 0, 1], admin.port()));
        Ok(self.get("/ready").await?.trim() == "LIVE")
    }

    /// The body of an admin page.
    async fn get(&self, path: &str) -> Result<String, Error> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .ok_or("no answer from the admin server")?;
        unchunk(body)
            .ok_or_else(|| format!("an unexpected answer from the admin server: {answer}").into())
    }

    /// Prints the line of an admin page that has `part` in it.
    pub(crate) async fn show(&self, path: &str, part: &str) -> Result<(), Error> {
        let page = self.get(path).await?;
        let line = page.lines().find(|line| line.contains(part));
        println!(
            "   {path:9} {}",
            line.ok_or_else(|| format!("{path} has no line with {part}"))?
        );
        Ok(())
    }

    /// Ends the proxy as Kubernetes does, and looks at its exit code.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        let ended = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        if ended.is_err() {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the proxy ended with {status}").into())
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself; the files are in the temporary folder either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The admin server sends its pages in chunks: a length in hexadecimal, a line end, the chunk, a line end.
fn unchunk(mut body: &str) -> Option<String> {
    let mut page = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(page);
        }
        page.push_str(rest.get(..length)?);
        body = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// Replaces the ports that may be taken on this machine, and says so.
fn adapt(config: &str, greeter_port: u16) -> String {
    println!("the proxy gets examples/sidecar/envoy.yaml, with these changes for this machine:");
    let mut adapted = config.to_owned();
    for (from, to) in [
        (
            "address: 0.0.0.0, port_value: 9901",
            "address: 127.0.0.1, port_value: 0".to_owned(),
        ),
        ("port_value: 10000", "port_value: 0".to_owned()),
        ("port_value: 50051", format!("port_value: {greeter_port}")),
    ] {
        println!("   {from:36} -> {to}");
        adapted = adapted.replacen(from, &to, 1);
    }
    adapted
}
