//! How clients of a listener resume sessions: session tickets, and sessions that the proxy stores.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::cipher;
use aws_lc_rs::digest;
use aws_lc_rs::hmac;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::TlsSessionTicketKeys;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use outrider_config::data_source;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::NoServerSessionStorage;
use rustls::server::ProducesTickets;
use rustls::server::ServerSessionMemoryCache;
use rustls::server::StoresServerSessions;

use crate::secrets::Secrets;

/// How many sessions a context caches for clients without tickets: the size of BoringSSL's cache, which Envoy uses.
const SESSIONS: usize = 20 * 1024;

/// The length of a key in `session_ticket_keys`, bytes: name, HMAC key, AES key.
const KEY: usize = 80;
const NAME: usize = 16;
const HMAC_KEY: usize = 32;
const IV: usize = 16;
const MAC: usize = 32;

/// How long tickets of configured keys are accepted without `session_timeout`, seconds: BoringSSL's time.
const LIFETIME: u32 = 2 * 60 * 60;

/// Identifies the context of a session: a ticket of another context with the same keys is refused if these differ.
pub(crate) type SessionContext = [u8; 32];

/// The context of sessions whose peers are verified and served by `parts`, each with its length before it.
pub(crate) fn session_context<'a>(parts: impl Iterator<Item = &'a [u8]>) -> SessionContext {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut context = [0; 32];
    context.copy_from_slice(hash.finish().as_ref());
    context
}

/// Sets how `server` resumes sessions. False as long as the secret with its keys has not come.
pub(crate) fn set_up(
    server: &mut ServerConfig,
    config: &DownstreamTlsContext,
    context: SessionContext,
    secrets: &Secrets,
    path: &FieldPath,
) -> Result<bool, ConfigErrors> {
    let timeout = config.session_timeout.as_ref();
    let timeout = timeout.and_then(|timeout| u32::try_from(timeout.seconds).ok());
    let timeout = timeout.filter(|seconds| *seconds > 0);
    let keys = match &config.session_ticket_keys_type {
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => {
            // As in BoringSSL, which has no other kind of resumption in TLS 1.3.
            server.send_tls13_tickets = 0;
            None
        }
        Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
            let keys = TicketKeys::build(keys, context, &path.field("session_ticket_keys"))?;
            Some(Arc::new(keys) as Arc<dyn ProducesTickets>)
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
            let path = path.field("session_ticket_keys_sds_secret_config");
            let Some((keys, path)) = secrets.ticket_keys(config, &path)? else {
                return Ok(false);
            };
            let keys = TicketKeys::build(keys, context, &path)?;
            Some(Arc::new(keys) as Arc<dyn ProducesTickets>)
        }
        _ => Ticketer::new().ok(),
    };
    let has_own_keys = !matches!(
        config.session_ticket_keys_type,
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(_))
    );
    if let Some(keys) = keys {
        server.ticketer = match timeout.or(has_own_keys.then_some(LIFETIME)) {
            Some(lifetime) => Arc::new(TimedTickets { keys, lifetime }),
            None => keys,
        };
    }
    server.session_storage = match (config.disable_stateful_session_resumption, timeout) {
        (true, _) => Arc::new(NoServerSessionStorage {}),
        (false, None) => ServerSessionMemoryCache::new(SESSIONS),
        (false, Some(lifetime)) => Arc::new(TimedSessions {
            sessions: ServerSessionMemoryCache::new(SESSIONS),
            lifetime,
        }),
    };
    Ok(true)
}

/// `session_ticket_keys`: tickets in the form that Envoy's have, AES-256 in CBC mode with HMAC-SHA256.
struct TicketKeys {
    /// The first makes tickets, all accept them.
    keys: Vec<TicketKey>,
    context: SessionContext,
}

struct TicketKey {
    name: [u8; NAME],
    mac: hmac::Key,
    encrypting: cipher::PaddedBlockEncryptingKey,
    decrypting: cipher::PaddedBlockDecryptingKey,
}

impl TicketKeys {
    fn build(
        config: &TlsSessionTicketKeys,
        context: SessionContext,
        path: &FieldPath,
    ) -> Result<TicketKeys, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let path = path.field("keys");
        let mut keys = Vec::with_capacity(config.keys.len());
        for (index, source) in config.keys.iter().enumerate() {
            let path = path.index(index);
            let Some(bytes) = errors.collect(data_source::read(source, None, &path)) else {
                continue;
            };
            match TicketKey::new(&bytes) {
                Some(key) => keys.push(key),
                None => errors.push(
                    &path,
                    format!(
                        "Incorrect TLS session ticket key length. Length {}, expected length {KEY}.",
                        bytes.len()
                    ),
                ),
            }
        }
        errors.finish(TicketKeys { keys, context })
    }

    fn mac(&self, key: &TicketKey, ticket: &[u8]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&key.mac);
        mac.update(&self.context);
        mac.update(ticket);
        mac.sign()
    }
}

impl TicketKey {
    /// None if it has another length.
    fn new(bytes: &[u8]) -> Option<TicketKey> {
        let bytes: &[u8; KEY] = bytes.try_into().ok()?;
        let (name, keys) = bytes.split_first_chunk::<NAME>()?;
        let (mac, aes) = keys.split_first_chunk::<HMAC_KEY>()?;
        let key = || cipher::UnboundCipherKey::new(&cipher::AES_256, aes);
        Some(TicketKey {
            name: *name,
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
            encrypting: cipher::PaddedBlockEncryptingKey::cbc_pkcs7(key().ok()?).ok()?,
            decrypting: cipher::PaddedBlockDecryptingKey::cbc_pkcs7(key().ok()?).ok()?,
        })
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        !self.keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut sealed = plain.to_vec();
        let context = key.encrypting.encrypt(&mut sealed).ok()?;
        let cipher::DecryptionContext::Iv128(iv) = context else {
            return None;
        };
        let mut ticket = key.name.to_vec();
        ticket.extend_from_slice(iv.as_ref());
        ticket.extend(sealed);
        let mac = self.mac(key, &ticket);
        ticket.extend_from_slice(mac.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (signed, mac) = ticket.split_at_checked(ticket.len().checked_sub(MAC)?)?;
        let (name, rest) = signed.split_first_chunk::<NAME>()?;
        let (iv, sealed) = rest.split_first_chunk::<IV>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let expected = self.mac(key, signed);
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), mac).ok()?;
        let mut opened = sealed.to_vec();
        let context = cipher::DecryptionContext::Iv128((*iv).into());
        let plain = key.decrypting.decrypt(&mut opened, context).ok()?;
        Some(plain.to_vec())
    }
}

/// Tickets that are accepted for `lifetime` seconds.
#[derive(Debug)]
struct TimedTickets {
    keys: Arc<dyn ProducesTickets>,
    lifetime: u32,
}

impl ProducesTickets for TimedTickets {
    fn enabled(&self) -> bool {
        self.keys.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.encrypt(&with_time(plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        within(self.lifetime, self.keys.decrypt(ticket)?)
    }
}

/// Stored sessions that are accepted for `lifetime` seconds.
#[derive(Debug)]
struct TimedSessions {
    sessions: Arc<ServerSessionMemoryCache>,
    lifetime: u32,
}

impl StoresServerSessions for TimedSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.sessions.put(key, with_time(&value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        within(self.lifetime, self.sessions.get(key)?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        within(self.lifetime, self.sessions.take(key)?)
    }

    fn can_cache(&self) -> bool {
        self.sessions.can_cache()
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// The current time in seconds since 1970, followed by the session.
fn with_time(session: &[u8]) -> Vec<u8> {
    let mut timed = now().to_be_bytes().to_vec();
    timed.extend_from_slice(session);
    timed
}

/// The session of [`with_time`] if it is not older than `lifetime` seconds.
fn within(lifetime: u32, timed: Vec<u8>) -> Option<Vec<u8>> {
    let (time, session) = timed.split_first_chunk()?;
    let age = now().checked_sub(u64::from_be_bytes(*time))?;
    (age <= u64::from(lifetime)).then(|| session.to_vec())
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &[u8], context: u8) -> TicketKeys {
        let keys = of.iter().map(|byte| TicketKey::new(&[*byte; KEY]).unwrap());
        TicketKeys {
            keys: keys.collect(),
            context: [context; 32],
        }
    }

    #[test]
    fn tickets_of_any_key_are_accepted_in_their_context_only() {
        let ticket = keys(&[1], 0).encrypt(b"session").unwrap();
        for (of, context, accepted) in [
            (&[1][..], 0, true),
            (&[2, 1], 0, true),
            (&[2], 0, false),
            (&[1], 1, false),
        ] {
            let opened = keys(of, context).decrypt(&ticket);
            assert_eq!(opened.is_some_and(|plain| plain == b"session"), accepted);
        }
    }

    #[test]
    fn changed_and_short_tickets_are_refused() {
        let keys = keys(&[1], 0);
        let ticket = keys.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(keys.decrypt(&changed).is_none());
            assert!(keys.decrypt(&ticket[..at]).is_none());
        }
    }

    #[test]
    fn old_sessions_are_refused() {
        let mut timed = (now() - 10).to_be_bytes().to_vec();
        timed.extend_from_slice(b"session");
        assert!(within(9, timed.clone()).is_none());
        assert_eq!(within(12, timed).unwrap(), b"session");
    }
}
