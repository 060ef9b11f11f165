//! Requires a user name and a password (`envoy.filters.http.basic_auth`).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::DataSource;
use outrider_config::api::envoy::extensions::filters::http::basic_auth::v3 as api;
use outrider_config::data_source;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use super::original_uri;
use crate::Stream;
use crate::local_reply::LocalReply;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.basic_auth.v3.BasicAuthPerRoute",
        build: |config, path, _| {
            let message: api::BasicAuthPerRoute = unpack(config, path)?;
            let users = Users::build(message.users.as_ref(), &path.field("users"))?;
            Ok(Arc::new(users))
        },
    }),
};

outrider_stats::group! {
    /// `http.<stat_prefix>.basic_auth.*`
    pub(super) struct BasicAuthStats {
        allowed: Counter,
        denied: Counter,
    }
}

/// The SHA-1 digests of the users' passwords, in base64. Not printed.
struct Users(HashMap<Vec<u8>, String>);

impl Users {
    /// Reads a list in the format of `htpasswd`.
    fn build(source: Option<&DataSource>, path: &FieldPath) -> Result<Users, ConfigErrors> {
        let default = DataSource::default();
        let text = data_source::read(source.unwrap_or(&default), None, path)?;
        let mut errors = ConfigErrors::new();
        if text.is_empty() {
            errors.push(path, "expected a list of users, which must not be empty");
        }
        let mut users = HashMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            match parse_line(line) {
                Ok((name, _)) if users.contains_key(name) => {
                    let name = String::from_utf8_lossy(name);
                    errors.push(path, format!("basic auth: duplicate user '{name}'"));
                }
                Ok((name, digest)) => drop(users.insert(name.to_vec(), digest)),
                Err(error) => errors.push(path, format!("basic auth: {error}")),
            }
        }
        errors.finish(Users(users))
    }

    fn has(&self, name: &[u8], password: &[u8]) -> bool {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, password);
        let digest = STANDARD.encode(digest.as_ref());
        let known = self.0.get(name);
        known.is_some_and(|known| {
            verify_slices_are_equal(known.as_bytes(), digest.as_bytes()).is_ok()
        })
    }
}

/// The user and the digest of the password in a line.
fn parse_line(line: &[u8]) -> Result<(&[u8], String), String> {
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or("invalid htpasswd format, username:password is expected")?;
    let (name, rest) = line.split_at(colon);
    let hash = rest.get(1..).unwrap_or_default();
    if name.is_empty() || hash.is_empty() {
        return Err("empty user name or password".to_owned());
    }
    let user = String::from_utf8_lossy(name);
    let digest = hash.strip_prefix(b"{SHA}");
    let digest = digest
        .ok_or_else(|| format!("unsupported htpasswd format: please use {{SHA}} for '{user}'"))?;
    let digest = String::from_utf8_lossy(digest);
    match digest.len() {
        28 => Ok((name, digest.into_owned())),
        _ => Err(format!("invalid SHA hash length for '{user}'")),
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::BasicAuth = unpack(config, path)?;
    let mut errors = ConfigErrors::new();
    let users = errors.collect(Users::build(message.users.as_ref(), &path.field("users")));
    let mut name = |name: &str, field: &'static str| match name {
        "" => None,
        text => {
            let name = text.to_ascii_lowercase().parse::<HeaderName>();
            if name.is_err() {
                errors.push(&path.field(field), format!("{text:?} is no header name"));
            }
            name.ok()
        }
    };
    let forward = name(&message.forward_username_header, "forward_username_header");
    let from = name(&message.authentication_header, "authentication_header");
    let config = BasicAuthConfig {
        users: users.unwrap_or_else(|| Users(HashMap::new())),
        forward_header: forward,
        header: from.unwrap_or_else(|| header::AUTHORIZATION.clone()),
        allows_missing: message.allow_missing,
        metadata_namespace: message.emit_dynamic_metadata.then(|| cx.name.to_owned()),
        scope: cx.scope.clone().name("basic_auth"),
    };
    errors.finish(Arc::new(config))
}

struct BasicAuthConfig {
    users: Users,
    forward_header: Option<HeaderName>,
    header: HeaderName,
    allows_missing: bool,
    /// `emit_dynamic_metadata`: the namespace is the filter's name.
    metadata_namespace: Option<String>,
    scope: Scope,
}

impl std::fmt::Debug for BasicAuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicAuthConfig")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl HttpFilterConfig for BasicAuthConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(BasicAuthFilter {
            stats: cx.worker.store.register(self.scope.clone()),
            routes: cx.route_config(),
            config: self,
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct BasicAuthFilter {
    config: Arc<BasicAuthConfig>,
    stats: Arc<BasicAuthStats>,
    routes: RouteConfig<Users>,
}

/// Why a request is denied.
struct Denied {
    text: &'static str,
    details: &'static str,
}

const MISSING: Denied = Denied {
    text: "User authentication failed. Missing username and password.",
    details: "no_credential_for_basic_auth",
};
const WRONG_SCHEME: Denied = Denied {
    text: "User authentication failed. Expected 'Basic' authentication scheme.",
    details: "invalid_scheme_for_basic_auth",
};
const WRONG_FORMAT: Denied = Denied {
    text: "User authentication failed. Invalid basic credential format.",
    details: "invalid_format_for_basic_auth",
};
const WRONG_PASSWORD: Denied = Denied {
    text: "User authentication failed. Invalid username/password combination.",
    details: "invalid_credential_for_basic_auth",
};

impl HttpFilter for BasicAuthFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        match self.user(stream) {
            Ok(user) => {
                if let Some(user) = user {
                    self.accept(stream, &user);
                    self.stats.allowed.inc();
                }
                FilterStatus::Continue
            }
            Err(Denied { text, details }) => {
                self.stats.denied.inc();
                let reply = LocalReply::new(StatusCode::UNAUTHORIZED, details).body(text);
                // Otherwise the client's own text could end the quoted string (RFC 9110, section 5.6.4).
                let uri = original_uri(&stream.request).replace('\\', r"\\");
                let realm = format!("Basic realm=\"{}\"", uri.replace('"', "\\\""));
                FilterStatus::Reply(match HeaderValue::try_from(realm) {
                    Ok(realm) => reply.header(&super::WWW_AUTHENTICATE, realm),
                    Err(_) => reply,
                })
            }
        }
    }
}

impl BasicAuthFilter {
    /// The user that the request authenticates; `None` if it need not.
    fn user(&self, stream: &Stream) -> Result<Option<Vec<u8>>, Denied> {
        let route = self.routes.most_specific(stream.route.as_deref());
        let users = route.unwrap_or(&self.config.users);
        let Some(value) = stream.request.headers.get(&self.config.header) else {
            return match self.config.allows_missing {
                true => Ok(None),
                false => Err(MISSING),
            };
        };
        let encoded = value.as_bytes().strip_prefix(b"Basic ");
        let encoded = encoded.ok_or(WRONG_SCHEME)?;
        // As in Envoy, up to two signs of padding are dropped, also where none is due.
        let encoded = encoded.strip_suffix(b"=").unwrap_or(encoded);
        let encoded = encoded.strip_suffix(b"=").unwrap_or(encoded);
        let decoded = STANDARD_NO_PAD.decode(encoded).unwrap_or_default();
        let mut parts = decoded.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(password)) = (parts.next(), parts.next()) else {
            return Err(WRONG_FORMAT);
        };
        match users.has(name, password) {
            true => Ok(Some(name.to_vec())),
            false => Err(WRONG_PASSWORD),
        }
    }

    fn accept(&self, stream: &mut Stream, user: &[u8]) {
        if let Some(name) = &self.config.forward_header
            && let Ok(value) = HeaderValue::from_bytes(user)
        {
            stream.request.headers.insert(name, value);
        }
        if let Some(namespace) = &self.config.metadata_namespace {
            let user = String::from_utf8_lossy(user).into_owned();
            let kind = Some(Kind::StringValue(user));
            let fields = BTreeMap::from([("username".to_owned(), Value { kind })]);
            stream.dynamic_metadata.merge(namespace, Struct { fields });
        }
    }
}
