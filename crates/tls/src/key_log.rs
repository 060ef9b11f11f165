//! `TlsKeyLog`: a file with the secrets of connections, for tools that decrypt their traffic.

use std::fmt;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::address_prefix;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsKeyLog;
use rustls::KeyLog;

use crate::peer::hex;

/// A key log file, and the connections whose secrets it gets.
pub(crate) struct KeyLogFile {
    file: File,
    local: Vec<AddressPrefix>,
    remote: Vec<AddressPrefix>,
}

impl KeyLogFile {
    /// Opens the file of the settings found at `path`; `None` if there are none.
    pub(crate) fn build(
        config: Option<&TlsKeyLog>,
        path: &FieldPath,
    ) -> Result<Option<Arc<KeyLogFile>>, ConfigErrors> {
        let Some(config) = config else {
            return Ok(None);
        };
        let mut errors = ConfigErrors::new();
        let mut prefixes = |ranges, field| {
            let built = address_prefix::build_all(ranges, &path.field(field));
            errors.collect(built).unwrap_or_default()
        };
        let local = prefixes(&config.local_address_range, "local_address_range");
        let remote = prefixes(&config.remote_address_range, "remote_address_range");
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&config.path);
        match file {
            Ok(file) if errors.is_empty() => Ok(Some(Arc::new(KeyLogFile {
                file,
                local,
                remote,
            }))),
            Ok(_) => Err(errors),
            Err(error) => {
                let message = format!("unable to open file '{}': {error}", config.path);
                errors.push(&path.field("path"), message);
                Err(errors)
            }
        }
    }

    /// Whether the secrets of a connection between these addresses are logged. A UNIX socket has no address.
    pub(crate) fn covers(&self, local: Option<IpAddr>, remote: Option<IpAddr>) -> bool {
        let within = |prefixes: &[AddressPrefix], address: Option<IpAddr>| {
            let mut prefixes = prefixes.iter();
            address.is_some_and(|address| prefixes.any(|prefix| prefix.contains(address)))
        };
        (self.local.is_empty() || within(&self.local, local))
            && (self.remote.is_empty() || within(&self.remote, remote))
    }
}

impl KeyLog for KeyLogFile {
    /// A line is one write to a file that is open for appending, so the lines of different workers do not mix.
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        if let Err(error) = (&self.file).write_all(line.as_bytes()) {
            log::warn!(target: "connection", "key log: {error}");
        }
    }
}

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLogFile")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}
