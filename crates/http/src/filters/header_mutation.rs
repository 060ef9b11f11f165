//! Changes headers, trailers and query parameters (`envoy.filters.http.header_mutation`).
//!
//! As in Envoy, each mutation sees what those before it did, unlike the header mutations of routes.

mod query;

use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::common::mutation_rules::v3::HeaderMutation as MutationMessage;
use outrider_config::api::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use outrider_config::api::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation as Message;
use outrider_config::api::envoy::extensions::filters::http::header_mutation::v3::HeaderMutationPerRoute;
use outrider_config::api::envoy::extensions::filters::http::header_mutation::v3::Mutations as MutationsMessage;
use outrider_config::string_matcher::StringMatcher;
use outrider_config::unpack;
use prost_types::Any;

use self::query::QueryMutation;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use super::RouteFilterConfig;
use super::body::TrailersBody;
use crate::Stream;
use crate::route::HeaderMutations;
use crate::route::Route;
use crate::route::RouteCx;
use crate::route::header_name;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        build: build_for_routes,
    }),
};

fn build(
    config: &Any,
    path: &FieldPath,
    _: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let mutations = message.mutations.unwrap_or_default();
    Ok(Arc::new(HeaderMutationConfig {
        mutations: Mutations::build(&mutations, &path.field("mutations"))?,
        most_specific_wins: message.most_specific_header_mutations_wins,
    }))
}

fn build_for_routes(
    config: &Any,
    path: &FieldPath,
    _: &RouteCx<'_>,
) -> Result<RouteFilterConfig, ConfigErrors> {
    let message: HeaderMutationPerRoute = unpack(config, path)?;
    let mutations = message.mutations.unwrap_or_default();
    let mutations = Mutations::build(&mutations, &path.field("mutations"))?;
    Ok(Arc::new(mutations))
}

#[derive(Debug)]
struct HeaderMutationConfig {
    mutations: Mutations,
    /// `most_specific_header_mutations_wins`: the route's mutations come after those of the route table.
    most_specific_wins: bool,
}

impl HttpFilterConfig for HeaderMutationConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(HeaderMutationFilter {
            config: self,
            routes: cx.route_config(),
        })
    }
}

/// The mutations of one level.
#[derive(Debug)]
struct Mutations {
    request: Box<[Mutation]>,
    query: Box<[QueryMutation]>,
    response: Box<[Mutation]>,
    request_trailers: Arc<[Mutation]>,
    response_trailers: Arc<[Mutation]>,
}

/// One mutation of headers (`envoy.config.common.mutation_rules.v3.HeaderMutation`).
#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    /// Removes this header.
    Remove(HeaderName),
    /// Removes the headers whose names match.
    RemoveMatching(StringMatcher),
    /// Adds or overwrites a header.
    Append(HeaderMutations),
}

impl Mutations {
    fn build(message: &MutationsMessage, path: &FieldPath) -> Result<Mutations, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut list = |messages: &[MutationMessage], field: &'static str| {
            let path = path.field(field);
            let list = messages.iter().enumerate().filter_map(|(at, message)| {
                errors.collect(Mutation::build(message, &path.index(at)))
            });
            list.collect::<Vec<_>>()
        };
        let request = list(&message.request_mutations, "request_mutations");
        let response = list(&message.response_mutations, "response_mutations");
        let request_trailers = list(
            &message.request_trailers_mutations,
            "request_trailers_mutations",
        );
        let response_trailers = list(
            &message.response_trailers_mutations,
            "response_trailers_mutations",
        );
        for (trailers, field) in [
            (&request_trailers, "request_trailers_mutations"),
            (&response_trailers, "response_trailers_mutations"),
        ] {
            for (at, mutation) in trailers.iter().enumerate() {
                if matches!(mutation, Mutation::Append(append) if !append.is_constant()) {
                    let path = path.field(field).index(at).field("append");
                    errors.push(&path, "not supported: a trailer with a format");
                }
            }
        }
        let query = QueryMutation::list(&message.query_parameter_mutations, path, &mut errors);
        errors.finish(Mutations {
            request: request.into(),
            query: query.into(),
            response: response.into(),
            request_trailers: request_trailers.into(),
            response_trailers: response_trailers.into(),
        })
    }

    fn apply_to_request(&self, stream: &mut Stream) {
        for mutation in &self.request {
            mutation.apply_to_request(stream);
        }
        if !self.query.is_empty() {
            query::apply(&self.query, stream);
        }
    }

    fn apply_to_response(&self, stream: &mut Stream) {
        for mutation in &self.response {
            match mutation {
                Mutation::Append(append) => append.apply_to_response(stream, false),
                mutation => {
                    if let Some(response) = &mut stream.response {
                        mutation.remove_from(&mut response.headers);
                    }
                }
            }
        }
    }
}

impl Mutation {
    pub(crate) fn build(
        message: &MutationMessage,
        path: &FieldPath,
    ) -> Result<Mutation, ConfigErrors> {
        match &message.action {
            Some(Action::Remove(name)) => {
                Ok(Mutation::Remove(header_name(name, &path.field("remove"))?))
            }
            Some(Action::Append(option)) => Ok(Mutation::Append(HeaderMutations::of(
                option,
                &path.field("append"),
            )?)),
            Some(Action::RemoveOnMatch(on_match)) => {
                let path = path.field("remove_on_match").field("key_matcher");
                let matcher = on_match.key_matcher.as_ref();
                let matcher =
                    matcher.ok_or_else(|| ConfigError::new(&path, "value is required"))?;
                Ok(Mutation::RemoveMatching(StringMatcher::build(
                    matcher, &path,
                )?))
            }
            None => Err(ConfigErrors::from(ConfigError::new(
                path,
                "an action is required",
            ))),
        }
    }

    /// Applies the mutation to the headers of the stream's request.
    pub(crate) fn apply_to_request(&self, stream: &mut Stream) {
        match self {
            Mutation::Append(append) => append.apply_to_request(stream),
            mutation => mutation.remove_from(&mut stream.request.headers),
        }
    }

    fn remove_from(&self, headers: &mut HeaderMap) {
        match self {
            Mutation::Remove(name) => {
                headers.remove(name);
            }
            Mutation::RemoveMatching(matcher) => {
                let names = headers.keys();
                let names: Vec<HeaderName> = names
                    .filter(|name| matcher.matches(name.as_str().as_bytes()))
                    .cloned()
                    .collect();
                for name in &names {
                    headers.remove(name);
                }
            }
            Mutation::Append(_) => {}
        }
    }

    fn apply_to_trailers(&self, trailers: &mut HeaderMap) {
        match self {
            Mutation::Append(append) => append.apply_constants(trailers),
            mutation => mutation.remove_from(trailers),
        }
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct HeaderMutationFilter {
    config: Arc<HeaderMutationConfig>,
    routes: RouteConfig<Mutations>,
}

impl HeaderMutationFilter {
    /// The filter's own mutations, then those of the route's levels, in the configured order.
    fn levels<'r>(&'r self, route: Option<&'r Route>) -> impl Iterator<Item = &'r Mutations> {
        let (down, up) = match self.config.most_specific_wins {
            true => (Some(self.routes.all(route)), None),
            false => (None, Some(self.routes.all(route).rev())),
        };
        std::iter::once(&self.config.mutations)
            .chain(down.into_iter().flatten())
            .chain(up.into_iter().flatten())
    }

    fn wrap_trailers(
        &self,
        stream: &Stream,
        body: &mut Body,
        of: fn(&Mutations) -> &Arc<[Mutation]>,
    ) {
        if body.is_end_stream() {
            return;
        }
        let levels = self.levels(stream.route.as_deref()).map(of);
        let mutations = levels.filter(|mutations| !mutations.is_empty());
        let mutations: Vec<Arc<[Mutation]>> = mutations.cloned().collect();
        if !mutations.is_empty() {
            // Access logs print the changed trailers.
            let logged = stream
                .upstream
                .as_ref()
                .filter(|_| stream.response.is_some());
            let logged = logged.and_then(|upstream| upstream.request.clone());
            TrailersBody::wrap(body, move |trailers| {
                for mutation in mutations.iter().flat_map(|level| level.iter()) {
                    mutation.apply_to_trailers(trailers);
                }
                if let Some(request) = &logged {
                    request.capture_trailers(trailers);
                }
            });
        }
    }
}

impl HttpFilter for HeaderMutationFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let route = stream.route.clone();
        for level in self.levels(route.as_deref()) {
            level.apply_to_request(stream);
        }
        self.wrap_trailers(stream, body, |level| &level.request_trailers);
        FilterStatus::Continue
    }

    fn on_response(&self, stream: &mut Stream, body: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let route = stream.route.clone();
        for level in self.levels(route.as_deref()) {
            level.apply_to_response(stream);
        }
        self.wrap_trailers(stream, body, |level| &level.response_trailers);
        FilterStatus::Continue
    }
}
