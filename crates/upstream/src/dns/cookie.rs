//! DNS cookies (RFC 7873): the client sends 8 bytes, and the server returns them with bytes of its own, so that nobody
//! else can answer for it. A server that returns no cookie is not sent any for a while.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::time::Duration;

use tokio::time::Instant;

/// How long a server without support for cookies is sent none.
const WITHOUT: Duration = Duration::from_secs(300);
/// The length in bytes of the client's part, and the range of the server's.
const CLIENT: usize = 8;
const SERVER: std::ops::RangeInclusive<usize> = 8..=32;

/// The cookies exchanged with one server.
#[derive(Debug, Default)]
pub(super) struct Cookie {
    client: Option<[u8; CLIENT]>,
    /// The server's part.
    server: Vec<u8>,
    /// When the server was seen not to support cookies.
    unknown_since: Option<Instant>,
}

impl Cookie {
    /// The cookie for a query; `None` for a server that does not support cookies.
    pub(super) fn for_query(&mut self) -> Option<Vec<u8>> {
        if self.unknown_since.is_some_and(|at| at.elapsed() < WITHOUT) {
            return None;
        }
        let client = self.client.get_or_insert_with(|| random().to_be_bytes());
        let mut cookie = client.to_vec();
        cookie.extend_from_slice(&self.server);
        Some(cookie)
    }

    /// Whether an answer with the cookie `received`, to a question with the cookie `sent`, comes from the server.
    pub(super) fn accept(&mut self, sent: Option<&[u8]>, received: Option<&[u8]>) -> bool {
        let Some(sent) = sent else {
            return true;
        };
        let client = sent.get(..CLIENT).unwrap_or_default();
        match received.and_then(|received| received.split_at_checked(CLIENT)) {
            Some((ours, theirs)) if ours == client && SERVER.contains(&theirs.len()) => {
                self.server = theirs.to_vec();
                self.unknown_since = None;
                true
            }
            None if self.server.is_empty() => {
                self.unknown_since = Some(Instant::now());
                true
            }
            // Once a server has sent cookies, an answer without one is forged.
            _ => false,
        }
    }
}

/// 64 unpredictable bits: a keyed hash, with keys from the system.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_cookies_is_sent_none_and_one_with_them_must_send_its_own() {
        let mut cookie = Cookie::default();
        let sent = cookie.for_query().unwrap();
        assert!(cookie.accept(Some(&sent), None));
        assert_eq!(cookie.for_query(), None);
        assert!(cookie.accept(None, None));

        let mut cookie = Cookie::default();
        let sent = cookie.for_query().unwrap();
        let whole = [&sent[..], b"12345678"].concat();
        assert!(!cookie.accept(Some(&sent), Some(b"other***12345678")));
        assert!(cookie.accept(Some(&sent), Some(&whole)));
        assert_eq!(cookie.for_query().as_deref(), Some(&whole[..]));
        assert!(!cookie.accept(Some(&whole), None));
    }
}
