//! The binary as a child process, for tests.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod config;

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the binary to its end.
pub(crate) fn outrider(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outrider"))
        .args(arguments)
        .output()
        .unwrap()
}

/// A folder that is deleted at the end of the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("outrider-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server; killed when dropped. Its log goes to the folder's `log`.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    admin: String,
}

impl Server {
    /// Starts the binary and waits until it is ready.
    pub(crate) fn start(folder: &Folder, arguments: &[&str]) -> Server {
        let (log, admin_file) = (folder.path("log"), folder.path("admin"));
        let _ = fs::remove_file(&admin_file);
        let child = Command::new(env!("CARGO_BIN_EXE_outrider"))
            .args(arguments)
            .args(["--concurrency", "2", "--log-path", log.to_str().unwrap()])
            .args(["--admin-address-path", admin_file.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server {
            child,
            log,
            admin: String::new(),
        };
        server.wait_until(|| {
            fs::read_to_string(&admin_file).is_ok_and(|address| address.contains(':'))
        });
        server.admin = fs::read_to_string(&admin_file).unwrap();
        server.wait_until(|| server.get("/ready").0 == 200);
        server
    }

    /// Waits until a condition holds. The test fails if the server ends or is too slow.
    pub(crate) fn wait_until(&self, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < PATIENCE, "too slow: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        request(&self.admin, "GET", path)
    }

    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        request(&self.admin, "POST", path)
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// The resident memory, in KB.
    pub(crate) fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP/1.1 request; status and body.
pub(crate) fn request(address: &str, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.contains("transfer-encoding: chunked");
    (
        status,
        if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        },
    )
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(length, 16).unwrap());
        text.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    text
}
