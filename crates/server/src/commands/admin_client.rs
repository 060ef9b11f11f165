//! A client of the admin port. It sends one request and reads the status of the response.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use outrider_config::BootstrapSources;
use outrider_config::FieldPath;
use outrider_net::Address;

use crate::cli::Options;
use crate::commands::AdminAddress;

/// The most bytes of a response that are read.
const STATUS_LINE: u64 = 4096;

/// A client of one admin port.
pub(super) struct AdminClient {
    address: String,
}

impl AdminClient {
    /// A client of the current admin port. A restarted proxy may write another address to the file.
    pub(super) fn new(address: &AdminAddress) -> Result<AdminClient, String> {
        let address = match address {
            AdminAddress::Given(address) => address.clone(),
            AdminAddress::File(path) => fs::read_to_string(path)
                .map_err(|error| format!("{path}: {error}"))?
                .trim()
                .to_owned(),
            AdminAddress::Config(path) => configured(path)?,
        };
        Ok(AdminClient { address })
    }

    /// Sends a GET request; an error unless the status is 200.
    pub(super) fn get(&self, path: &str, timeout: Duration) -> Result<(), String> {
        self.request("GET", path, timeout)
    }

    /// Sends a request without a body; an error unless the status is 200.
    pub(super) fn request(
        &self,
        method: &str,
        path: &str,
        timeout: Duration,
    ) -> Result<(), String> {
        let answer = self
            .exchange(method, path, timeout)
            .map_err(|error| format!("{}: {error}", self.address))?;
        let mut lines = answer.lines();
        let status = lines.next().unwrap_or_default();
        if status.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Err(format!("{}{path}: {status} {}", self.address, body.trim()))
    }

    fn exchange(&self, method: &str, path: &str, timeout: Duration) -> io::Result<String> {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        if self.address.starts_with(['/', '@']) {
            let stream = UnixStream::connect(&self.address)?;
            stream.set_read_timeout(Some(timeout))?;
            return talk(stream, &head);
        }
        let mut last = io::Error::other("names no address");
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(timeout))?;
                    return talk(stream, &head);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn talk(mut stream: impl Read + Write, head: &str) -> io::Result<String> {
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(STATUS_LINE).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The admin address of a config.
fn configured(path: &str) -> Result<String, String> {
    let options = Options {
        config_path: path.to_owned(),
        allow_unknown_static_fields: true,
        ..Options::default()
    };
    let sources: BootstrapSources = options.sources();
    let loaded = outrider_config::load(&sources).map_err(|error| error.to_string())?;
    let admin = loaded.bootstrap.admin.unwrap_or_default();
    let address = admin
        .address
        .ok_or_else(|| format!("{path}: admin.address is not set"))?;
    let field = FieldPath::root().field("admin").field("address");
    let address = Address::build(&address, &field).map_err(|error| error.to_string())?;
    Ok(address.to_string())
}
