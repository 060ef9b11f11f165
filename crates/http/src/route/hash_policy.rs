//! `RouteAction.hash_policy`: what of a request is hashed, for clusters that choose hosts by it.

use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::route_action::HashPolicy as HashPolicyMessage;
use outrider_config::api::envoy::config::route::v3::route_action::hash_policy as api;
use outrider_net::Address;
use xxhash_rust::xxh64::xxh64;

use crate::RequestHead;
use crate::Stream;
use crate::route::rewrite::Substitution;
use outrider_matching::MatchedHeader;
use outrider_matching::cookie_value;
use outrider_matching::query_value;

/// What of a request is hashed, in the order of the config.
#[derive(Clone, Debug, Default)]
pub(crate) struct HashPolicy(Box<[HashMethod]>);

#[derive(Clone, Debug)]
struct HashMethod {
    source: HashSource,
    /// If there is a hash by now, what follows does not count.
    terminal: bool,
}

#[derive(Clone, Debug)]
enum HashSource {
    /// All values of a header, rewritten.
    Header(MatchedHeader, Option<Substitution>),
    Cookie(HashedCookie),
    SourceIp,
    /// The first value of a query parameter.
    QueryParameter(Box<str>),
}

/// The first value of a cookie.
#[derive(Clone, Debug)]
struct HashedCookie {
    name: Box<str>,
    /// The attributes of `set-cookie` after the value, for a client that did not send the cookie; `None` if the proxy
    /// sets no cookie.
    made: Option<Box<str>>,
}

/// The result of the policy for a request.
#[derive(Debug, Default)]
pub(crate) struct RequestHash {
    /// The hash; `None` if the request has nothing that the policy hashes.
    pub(crate) hash: Option<u64>,
    /// The cookies that the client gets, so that its next request has the same hash.
    set_cookies: Vec<String>,
}

impl HashPolicy {
    pub(crate) fn build(
        config: &[HashPolicyMessage],
        path: &FieldPath,
    ) -> Result<HashPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut methods = Vec::with_capacity(config.len());
        for (index, method) in config.iter().enumerate() {
            let path = path.field("hash_policy").index(index);
            if let Some(source) = errors.collect(HashSource::build(method, &path)).flatten() {
                let terminal = method.terminal;
                methods.push(HashMethod { source, terminal });
            }
        }
        errors.finish(HashPolicy(methods.into()))
    }

    /// The hash of `stream`'s request, and the cookies that it asks for.
    pub(crate) fn hash(&self, stream: &Stream) -> RequestHash {
        let mut result = RequestHash::default();
        for method in &self.0 {
            if let Some(new) = method.source.hash(stream, &mut result.set_cookies) {
                // Rotated, so that two equal hashes do not cancel each other out.
                let old = result.hash.unwrap_or_default();
                result.hash = Some(old.rotate_left(1) ^ new);
            }
            if method.terminal && result.hash.is_some() {
                break;
            }
        }
        result
    }
}

impl RequestHash {
    /// Adds the cookies to the response.
    pub(crate) fn set_cookies(self, stream: &mut Stream) {
        let Some(response) = &mut stream.response else {
            return;
        };
        for cookie in self.set_cookies {
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                response.headers.append(&header::SET_COOKIE, cookie);
            }
        }
    }
}

impl HashSource {
    /// None for a method that hashes nothing.
    fn build(
        config: &HashPolicyMessage,
        path: &FieldPath,
    ) -> Result<Option<HashSource>, ConfigErrors> {
        use api::PolicySpecifier;
        Ok(match &config.policy_specifier {
            None | Some(PolicySpecifier::FilterState(_)) => None,
            Some(PolicySpecifier::Header(header)) => {
                let rewrite = header.regex_rewrite.as_ref().map(|rewrite| {
                    Substitution::build(rewrite, &path.field("header").field("regex_rewrite"))
                });
                let name = MatchedHeader::new(&header.header_name);
                Some(HashSource::Header(name, rewrite.transpose()?))
            }
            Some(PolicySpecifier::Cookie(cookie)) => {
                Some(HashSource::Cookie(HashedCookie::new(cookie)))
            }
            Some(PolicySpecifier::ConnectionProperties(properties)) => {
                properties.source_ip.then_some(HashSource::SourceIp)
            }
            Some(PolicySpecifier::QueryParameter(parameter)) => {
                Some(HashSource::QueryParameter(parameter.name.as_str().into()))
            }
        })
    }

    fn hash(&self, stream: &Stream, set_cookies: &mut Vec<String>) -> Option<u64> {
        match self {
            HashSource::Header(name, rewrite) => {
                hash_header(&stream.request, name, rewrite.as_ref())
            }
            HashSource::Cookie(cookie) => cookie.hash(stream, set_cookies),
            HashSource::SourceIp => match &stream.remote_address {
                Address::Ip(address) => Some(hash(address.ip().to_string().as_bytes())),
                Address::Pipe(_) | Address::Internal(_) => None,
            },
            HashSource::QueryParameter(name) => {
                let path = stream.request.path();
                let query = path.split_once('?').map_or("", |(_, query)| query);
                let query = query.split('#').next().unwrap_or_default();
                query_value(query, name).map(|value| hash(value.as_bytes()))
            }
        }
    }
}

/// The hash of all values of a header, in whatever order they come.
fn hash_header(
    head: &RequestHead,
    name: &MatchedHeader,
    rewrite: Option<&Substitution>,
) -> Option<u64> {
    let mut values = name.values(head);
    let first = values.next()?;
    let rest: Vec<&[u8]> = values.collect();
    if rest.is_empty() && rewrite.is_none() {
        return Some(hash(first));
    }
    let rewritten = |value: &[u8]| match rewrite {
        Some(rewrite) => rewrite.apply(&String::from_utf8_lossy(value)).into_bytes(),
        None => value.to_vec(),
    };
    let mut all: Vec<Vec<u8>> = std::iter::once(first).chain(rest).map(rewritten).collect();
    all.sort_unstable();
    Some(all.iter().fold(0, |seed, value| xxh64(value, seed)))
}

fn hash(text: &[u8]) -> u64 {
    xxh64(text, 0)
}

impl HashedCookie {
    fn new(config: &api::Cookie) -> HashedCookie {
        let made = config.ttl.as_ref().map(|ttl| {
            let mut rest = String::new();
            if ttl.seconds != 0 {
                rest.push_str(&format!("; Max-Age={}", ttl.seconds));
            }
            if !config.path.is_empty() {
                rest.push_str(&format!("; Path={}", config.path));
            }
            for attribute in &config.attributes {
                rest.push_str(&format!("; {}", attribute.name));
                if !attribute.value.is_empty() {
                    rest.push_str(&format!("={}", attribute.value));
                }
            }
            rest.push_str("; HttpOnly");
            rest.into()
        });
        HashedCookie {
            name: config.name.as_str().into(),
            made,
        }
    }

    fn hash(&self, stream: &Stream, set_cookies: &mut Vec<String>) -> Option<u64> {
        let cookies = stream.request.headers.get_all(&header::COOKIE);
        let value = cookies
            .filter_map(|value| cookie_value(value.as_bytes(), self.name.as_bytes()))
            .next()
            .filter(|value| !value.is_empty());
        if let Some(value) = value {
            return Some(hash(value));
        }
        let made = self.made.as_ref()?;
        // The same for all requests of a connection, so that those under way together get the same cookie.
        let connection = &stream.connection;
        let ends = format!("{}{}", connection.remote, connection.local);
        let value = format!("{:016x}", hash(ends.as_bytes()));
        set_cookies.push(format!("{}=\"{value}\"{made}", self.name));
        Some(hash(value.as_bytes()))
    }
}
