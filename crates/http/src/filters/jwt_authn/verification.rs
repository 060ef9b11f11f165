//! Checks the tokens of one request, and applies those that are valid.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use outrider_codec::HeaderValue;
use outrider_net::clock;
use prost_types::ListValue;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::JwtFilter;
use super::claims;
use super::jwks::Jwks;
use super::locations::FoundToken;
use super::locations::Locations;
use super::provider::Audiences;
use super::provider::KeySource;
use super::provider::Lifetime;
use super::provider::Provider;
use super::remote::FetchFailed;
use super::remote::RemoteJwks;
use super::requirement::Leniency;
use super::requirement::Requirement;
use super::status::Status;
use super::token::Token;
use crate::Stream;
use crate::filters::FilterCx;

/// The verification of a request.
pub(super) struct Verification<'a> {
    filter: &'a JwtFilter,
    stream: &'a mut Stream,
    cx: &'a FilterCx<'a>,
    /// What dynamic metadata will have of the tokens.
    extracted: BTreeMap<String, Value>,
    clears_route_cache: bool,
}

/// Which tokens are looked for, and where.
struct Search<'r> {
    /// `None` if the issuer tells the provider.
    provider: Option<usize>,
    audiences: Option<&'r Audiences>,
    locations: &'r Locations,
    leniency: Option<&'r Leniency>,
}

impl<'a> Verification<'a> {
    pub(super) fn new(
        filter: &'a JwtFilter,
        stream: &'a mut Stream,
        cx: &'a FilterCx<'a>,
    ) -> Verification<'a> {
        Verification {
            filter,
            stream,
            cx,
            extracted: BTreeMap::new(),
            clears_route_cache: false,
        }
    }

    /// Checks whether the request has the tokens that it must have.
    pub(super) fn check<'v>(
        &'v mut self,
        requirement: &'v Requirement,
    ) -> Pin<Box<dyn Future<Output = Result<(), Status>> + 'v>> {
        Box::pin(async move {
            match requirement {
                Requirement::None => Ok(()),
                Requirement::Provider { index, audiences } => {
                    let filter = self.filter;
                    self.search(&Search {
                        provider: Some(*index),
                        audiences: audiences.as_ref(),
                        locations: &filter.provider(*index)?.locations,
                        leniency: None,
                    })
                    .await
                }
                Requirement::Lenient {
                    locations,
                    leniency,
                } => {
                    self.search(&Search {
                        provider: None,
                        audiences: None,
                        locations,
                        leniency: Some(leniency),
                    })
                    .await
                }
                Requirement::Any(list) => {
                    let mut failure = Status::MISSING;
                    for requirement in list {
                        match self.check(requirement).await {
                            Ok(()) => return Ok(()),
                            Err(status) => failure = more_telling(failure, status),
                        }
                    }
                    Err(failure)
                }
                Requirement::All(list) => {
                    for requirement in list {
                        self.check(requirement).await?;
                    }
                    Ok(())
                }
            }
        })
    }

    /// Sets the dynamic metadata, and finds the route again if a provider asks for it.
    pub(super) fn finish(self) {
        if !self.extracted.is_empty() {
            let fields = self.extracted;
            let metadata = &mut self.stream.dynamic_metadata;
            metadata.merge(super::NAMESPACE, Struct { fields });
        }
        if self.clears_route_cache {
            self.cx.clear_route_cache(self.stream);
        }
    }

    /// Checks all tokens in the places of `search`. If a request has several, all must be valid: the upstream might use
    /// any of them.
    async fn search(&mut self, search: &Search<'_>) -> Result<(), Status> {
        for name in &search.locations.sanitized {
            self.stream.request.headers.remove(name);
        }
        let mut tokens = search.locations.find(&self.stream.request);
        if tokens.is_empty() {
            self.note_failure(None, Status::MISSING);
        }
        let mut last = match search.leniency {
            Some(_) => Ok(()),
            None => Err(Status::MISSING),
        };
        // As in Envoy, the last one first.
        while let Some(found) = tokens.pop() {
            let mut provider = search.provider;
            last = self.verify(&found, search, &mut provider).await;
            let Err(status) = last else {
                continue;
            };
            self.note_failure(provider, status);
            if search.leniency.is_none() {
                return last;
            }
        }
        match (search.leniency, last) {
            (Some(Leniency::Failed), Err(_)) => Ok(()),
            (Some(Leniency::FailedWithHeader(name)), Err(_)) => {
                let value = HeaderValue::from_static("false");
                self.stream.request.headers.insert(name, value);
                Ok(())
            }
            _ => last,
        }
    }

    /// `provider` is set to the one that the issuer tells.
    async fn verify(
        &mut self,
        found: &FoundToken,
        search: &Search<'_>,
        provider: &mut Option<usize>,
    ) -> Result<(), Status> {
        let now = seconds_since_1970(clock::wall());
        let cached = provider.and_then(|index| self.filter.cached(index, &found.text, now));
        let is_cached = cached.is_some();
        let token = match cached {
            Some(token) => token,
            None => Rc::new(Token::parse(&found.text)?),
        };
        if !found.allows_issuer(&token.issuer) {
            return Err(Status::UNKNOWN_ISSUER);
        }
        if provider.is_none() {
            *provider = self.filter.shared.provider_of(&token.issuer);
        }
        let index = provider.ok_or(Status::UNKNOWN_ISSUER)?;
        let settings = self.filter.provider(index)?;
        check_claims(&token, settings, search.audiences, now)?;
        if !is_cached {
            self.check_signature(&token, index, settings).await?;
        }
        self.apply(&token, settings, found);
        if search.provider.is_some() && !is_cached {
            self.filter.keep(index, &found.text, token);
        }
        Ok(())
    }

    async fn check_signature(
        &self,
        token: &Token,
        index: usize,
        provider: &Provider,
    ) -> Result<(), Status> {
        let remote = match &provider.keys {
            KeySource::Local(keys) => return keys.verify(token),
            KeySource::Remote(remote) => remote,
        };
        match self.filter.current_keys(index, remote) {
            Some(keys) => keys.verify(token),
            None => self.fetch(index, remote).await?.verify(token),
        }
    }

    async fn fetch(&self, index: usize, remote: &RemoteJwks) -> Result<Arc<Jwks>, Status> {
        let filter = self.filter;
        match remote.fetch(&filter.client, self.cx.worker).await {
            Ok(keys) => {
                filter.stats.jwks_fetch_success.inc();
                let keys = Arc::new(keys);
                filter.set_keys(index, remote, &keys);
                Ok(keys)
            }
            Err(FetchFailed) => {
                filter.stats.jwks_fetch_failed.inc();
                Err(Status::FETCH_FAILED)
            }
        }
    }

    /// Forwards the payload and claims of a valid token as configured.
    fn apply(&mut self, token: &Token, provider: &Provider, found: &FoundToken) {
        let request = &mut self.stream.request;
        if let Some(name) = &provider.payload_header {
            let mut payload = token.encoded_payload.clone();
            while provider.pads_payload && !payload.len().is_multiple_of(4) {
                payload.push('=');
            }
            if let Ok(value) = HeaderValue::try_from(payload) {
                request.headers.append(name, value);
            }
        }
        let mut adds_claim = false;
        for claim in &provider.claims {
            let value = claims::find(&token.payload, &claim.path).and_then(claims::header_value);
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                request.headers.append(&claim.name, value);
                adds_claim = true;
            }
        }
        if !provider.keeps_token {
            found.remove_from(request);
        }
        if !provider.header_in_metadata.is_empty() {
            self.extract(&provider.header_in_metadata, token.header.clone());
        }
        if !provider.payload_in_metadata.is_empty() {
            let mut payload = token.payload.clone();
            for claim in &provider.space_delimited {
                split_at_spaces(&mut payload, claim);
            }
            self.extract(&provider.payload_in_metadata, payload);
        }
        let is_visible = adds_claim || !provider.payload_in_metadata.is_empty();
        self.clears_route_cache |= provider.clears_route_cache && is_visible;
    }

    fn extract(&mut self, key: &str, fields: Struct) {
        let kind = Some(Kind::StructValue(fields));
        self.extracted.insert(key.to_owned(), Value { kind });
    }

    /// Tells in dynamic metadata why a token is not valid. Its provider, or the only one, may ask for that.
    fn note_failure(&mut self, provider: Option<usize>, status: Status) {
        let only = (self.filter.shared.providers.len() == 1).then_some(0);
        let Some(Ok(provider)) = provider.or(only).map(|index| self.filter.provider(index)) else {
            return;
        };
        if !provider.failure_in_metadata.is_empty() {
            let code = Kind::NumberValue(f64::from(status.code));
            let message = Kind::StringValue(status.text.to_owned());
            let fields = [("code", code), ("message", message)];
            let fields = fields.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
            let fields = BTreeMap::from(fields);
            self.extract(&provider.failure_in_metadata, Struct { fields });
        }
    }
}

/// Of two reasons why no alternative fits, the one that helps more: the other token may not have been meant at all.
fn more_telling(known: Status, new: Status) -> Status {
    match (known, new) {
        (known, Status::MISSING) => known,
        (Status::MISSING, new) => new,
        (known, Status::UNKNOWN_ISSUER) => known,
        (_, new) => new,
    }
}

fn check_claims(
    token: &Token,
    provider: &Provider,
    audiences: Option<&Audiences>,
    now: u64,
) -> Result<(), Status> {
    token.check_time(now, provider.clock_skew)?;
    let audiences = audiences.unwrap_or(&provider.audiences);
    if !audiences.allow(&token.audiences) {
        return Err(Status::AUDIENCE_NOT_ALLOWED);
    }
    let subjects = provider.subjects.as_ref();
    if subjects.is_some_and(|subjects| !subjects.matches(token.subject.as_bytes())) {
        return Err(Status::VERIFICATION_FAILED);
    }
    let lasts = match provider.lifetime {
        None => true,
        Some(_) if token.expires == 0 => false,
        Some(Lifetime::Limited) => true,
        Some(Lifetime::Below(longest)) => {
            Duration::from_secs(token.expires.saturating_sub(now)) < longest
        }
    };
    match lasts {
        true => Ok(()),
        false => Err(Status::VERIFICATION_FAILED),
    }
}

/// Makes a list of a claim's text.
fn split_at_spaces(payload: &mut Struct, claim: &str) {
    let value = payload.fields.get_mut(claim);
    if let Some(Value { kind: Some(kind) }) = value
        && let Kind::StringValue(text) = kind
    {
        let words = text.split(' ').filter(|word| !word.is_empty());
        let values = words.map(|word| Value {
            kind: Some(Kind::StringValue(word.to_owned())),
        });
        let values = values.collect();
        *kind = Kind::ListValue(ListValue { values });
    }
}

fn seconds_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
