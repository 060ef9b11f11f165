//! A request to the admin server.

use std::borrow::Cow;
use std::time::Duration;
use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::Version;
use hyper::header;
use outrider_net::Address;

/// A request to an endpoint.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The normalized path, and the query as sent.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

/// One request and its response, for the access log.
#[derive(Debug)]
pub struct AdminRequest {
    /// When the request began.
    pub started: SystemTime,
    /// How long it took until the end of the response.
    pub duration: Duration,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Version,
    /// The request's head, if it could be read.
    pub head: Option<AdminRequestHead>,
    /// Whether the request was refused before anything was added to its head.
    pub is_refused: bool,
    /// The response's status; 0 if the client left before it.
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
    /// The failure, if there was one.
    pub failure: Option<RequestFailure>,
    /// The response's headers: names in lower case, and values.
    pub response_headers: Vec<(String, String)>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// The admin server's address.
    pub local: Address,
    /// The client's address.
    pub remote: Address,
}

/// The head of a request, for the access log.
#[derive(Clone, Debug, Default)]
pub struct AdminRequestHead {
    /// The method.
    pub method: String,
    /// The path and query.
    pub target: String,
    /// The headers: names in lower case, and values.
    pub headers: Vec<(String, String)>,
}

/// Why a request did not get an endpoint's response, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFailure {
    /// The request violated the protocol.
    Protocol,
    /// The client left before the end.
    Disconnect,
    /// The client sent nothing for too long.
    IdleTimeout,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The parameters of the query, in order.
    pub(crate) fn parameters(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?');
        query.map_or_else(Vec::new, |(_, query)| parse_parameters(query))
    }

    /// The parameters of the form in `body`, if the content type is that of a form.
    pub(crate) fn form(&self, body: &[u8]) -> Vec<(String, String)> {
        let content_type = self.headers.get(header::CONTENT_TYPE);
        match content_type.is_some_and(|kind| kind == "application/x-www-form-urlencoded") {
            true => parse_parameters(&String::from_utf8_lossy(body)),
            false => Vec::new(),
        }
    }

    /// The first value of a parameter; empty if the parameter has no value.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut parameters = self.parameters().into_iter();
        let found = parameters.find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }
}

fn parse_parameters(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name).into_owned(), unescape(value).into_owned())
        })
        .collect()
}

/// Decodes `%41` to `A`. A `+` is not decoded to a space, because filters are regular expressions.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push(high * 16 + low);
                rest = &rest[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn parameters_are_unescaped_and_the_first_wins() {
        let request = Request {
            method: "GET".into(),
            target: "/stats?filter=%73erver%2Elive&filter=x&usedonly&a=b+c&bad=%zz%4".into(),
            headers: HeaderMap::new(),
        };
        assert_eq!(request.path(), "/stats");
        assert_eq!(request.parameter("filter").unwrap(), "server.live");
        assert_eq!(request.parameter("usedonly").unwrap(), "");
        assert_eq!(request.parameter("a").unwrap(), "b+c");
        assert_eq!(request.parameter("bad").unwrap(), "%zz%4");
        assert!(!request.has("file"));
    }

    #[test]
    fn a_form_needs_its_content_type() {
        let mut request = Request {
            method: "POST".into(),
            target: "/".into(),
            headers: HeaderMap::new(),
        };
        let body = b"a=1&b=%32";
        assert!(request.form(body).is_empty());
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.append(header::CONTENT_TYPE, form);
        let want = [("a", "1"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(request.form(body), want);
    }
}
