//! Where tokens are in a request: headers, query parameters and cookies.

use std::collections::BTreeMap;

use outrider_codec::HeaderName;
use outrider_codec::RequestHead;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::JwtProvider;
use outrider_matching::cookie_value;

use crate::filters::query_parameters::QueryParameters;

/// The places to look at, for one provider or for several.
#[derive(Debug, Default)]
pub(super) struct Locations {
    /// By the name and the prefix, joined: Envoy looks in this order.
    headers: BTreeMap<String, HeaderLocation>,
    parameters: BTreeMap<String, Issuers>,
    cookies: BTreeMap<String, Issuers>,
    /// Headers that only the filter may set.
    pub(super) sanitized: Vec<HeaderName>,
}

#[derive(Debug)]
struct HeaderLocation {
    name: HeaderName,
    /// What is before the token.
    prefix: String,
    issuers: Issuers,
}

/// The issuers whose tokens may be in a place.
#[derive(Clone, Debug, Default)]
struct Issuers {
    any: bool,
    named: Vec<String>,
}

/// A token that was found.
#[derive(Debug)]
pub(super) struct FoundToken {
    pub(super) text: Vec<u8>,
    place: Place,
    issuers: Issuers,
}

#[derive(Debug)]
enum Place {
    Header(HeaderName),
    Parameter(String),
    Cookie,
}

impl Issuers {
    fn add(&mut self, issuer: &str) {
        match issuer {
            "" => self.any = true,
            issuer => self.named.push(issuer.to_owned()),
        }
    }
}

impl Locations {
    /// Adds the places of a provider, found at `path`.
    pub(super) fn add(
        &mut self,
        provider: &JwtProvider,
        path: &FieldPath,
    ) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let issuer = &provider.issuer;
        for (at, from) in provider.from_headers.iter().enumerate() {
            match from.name.to_ascii_lowercase().parse() {
                Ok(name) => self.add_header(name, &from.value_prefix, issuer),
                Err(_) => {
                    let path = path.field("from_headers").index(at).field("name");
                    errors.push(&path, format!("{:?} is no header name", from.name));
                }
            }
        }
        for name in &provider.from_params {
            self.parameters.entry(name.clone()).or_default().add(issuer);
        }
        for name in &provider.from_cookies {
            self.cookies.entry(name.clone()).or_default().add(issuer);
        }
        if provider.from_headers.is_empty()
            && provider.from_params.is_empty()
            && provider.from_cookies.is_empty()
        {
            self.add_header(header::AUTHORIZATION.clone(), "Bearer ", issuer);
            let parameter = self.parameters.entry("access_token".to_owned());
            parameter.or_default().add(issuer);
        }
        let claims = provider.claim_to_headers.iter();
        let claims = claims.map(|claim| claim.header_name.as_str());
        let set = claims.chain([provider.forward_payload_header.as_str()]);
        let set = set.filter_map(|name| name.to_ascii_lowercase().parse().ok());
        self.sanitized.extend(set);
        errors.finish(())
    }

    fn add_header(&mut self, name: HeaderName, prefix: &str, issuer: &str) {
        let key = format!("{name}{prefix}");
        let location = self.headers.entry(key).or_insert_with(|| HeaderLocation {
            name,
            prefix: prefix.to_owned(),
            issuers: Issuers::default(),
        });
        location.issuers.add(issuer);
    }

    /// The tokens in a request, those in headers first.
    pub(super) fn find(&self, request: &RequestHead) -> Vec<FoundToken> {
        let mut found = Vec::new();
        for location in self.headers.values() {
            let values = request.headers.get_all(&location.name);
            let values = values.filter_map(|value| location.token(value.as_bytes()));
            found.extend(values.map(|text| FoundToken {
                text: text.to_vec(),
                place: Place::Header(location.name.clone()),
                issuers: location.issuers.clone(),
            }));
        }
        let query = request.path.as_ref().and_then(|target| target.query());
        if let Some(query) = query.filter(|_| !self.parameters.is_empty()) {
            let parameters = QueryParameters::parse(query);
            for (name, issuers) in &self.parameters {
                found.extend(parameters.first(name).map(|value| FoundToken {
                    text: value.to_vec(),
                    place: Place::Parameter(name.clone()),
                    issuers: issuers.clone(),
                }));
            }
        }
        for (name, issuers) in &self.cookies {
            let mut cookies = request.headers.get_all(&header::COOKIE);
            let value = cookies.find_map(|line| cookie_value(line.as_bytes(), name.as_bytes()));
            found.extend(value.map(|value| FoundToken {
                text: value.to_vec(),
                place: Place::Cookie,
                issuers: issuers.clone(),
            }));
        }
        found
    }
}

impl HeaderLocation {
    /// The token in a header's value: what follows the prefix, which may be anywhere, and characters that no token has.
    fn token<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        if self.prefix.is_empty() {
            return Some(value);
        }
        let prefix = self.prefix.as_bytes();
        let at = value
            .windows(prefix.len())
            .position(|part| part == prefix)?;
        let rest = value.get(at + prefix.len()..)?;
        let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        match rest.iter().position(is_of_token) {
            Some(start) => rest.get(start..),
            None => Some(value),
        }
    }
}

impl FoundToken {
    /// Whether the place may have tokens of this issuer.
    pub(super) fn allows_issuer(&self, issuer: &str) -> bool {
        self.issuers.any || self.issuers.named.iter().any(|name| name == issuer)
    }

    /// Removes the token from the request. As in Envoy, cookies stay.
    pub(super) fn remove_from(&self, request: &mut RequestHead) {
        match &self.place {
            Place::Header(name) => {
                request.headers.remove(name);
            }
            Place::Parameter(name) => {
                let Some(target) = &request.path else {
                    return;
                };
                let mut parameters = QueryParameters::parse(target.query().unwrap_or_default());
                parameters.remove(name);
                if let Some(changed) = parameters.target(target.path()) {
                    request.path = Some(changed);
                }
            }
            Place::Cookie => {}
        }
    }
}
