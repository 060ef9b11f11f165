//! Holds a request back until it is complete (`envoy.filters.http.buffer`), and refuses those that are too large.

use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::buffer::v3::Buffer as Message;
use outrider_config::api::envoy::extensions::filters::http::buffer::v3::BufferPerRoute;
use outrider_config::api::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override;
use outrider_config::unpack;
use prost_types::Any;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWait;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use super::RouteFilterConfig;
use crate::Stream;
use crate::route::RouteCx;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.buffer.v3.Buffer",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
        build: build_for_routes,
    }),
};

fn build(
    config: &Any,
    path: &FieldPath,
    _: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    Ok(Arc::new(BufferConfig {
        limit: limit(&unpack(config, path)?),
    }))
}

fn build_for_routes(
    config: &Any,
    path: &FieldPath,
    _: &RouteCx<'_>,
) -> Result<RouteFilterConfig, ConfigErrors> {
    let message: BufferPerRoute = unpack(config, path)?;
    Ok(Arc::new(match &message.r#override {
        Some(Override::Buffer(buffer)) => BufferSettings::Limit(limit(buffer)),
        Some(Override::Disabled(_)) | None => BufferSettings::Disabled,
    }))
}

fn limit(message: &Message) -> usize {
    message.max_request_bytes.unwrap_or_default() as usize
}

#[derive(Debug)]
struct BufferConfig {
    /// `max_request_bytes`
    limit: usize,
}

/// A route's setting.
#[derive(Clone, Copy, Debug)]
enum BufferSettings {
    Disabled,
    Limit(usize),
}

impl HttpFilterConfig for BufferConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(BufferFilter {
            limit: self.limit,
            routes: cx.route_config(),
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct BufferFilter {
    limit: usize,
    routes: RouteConfig<BufferSettings>,
}

impl BufferFilter {
    fn settings(&self, stream: &Stream) -> BufferSettings {
        let of_route = self.routes.most_specific(stream.route.as_deref()).copied();
        of_route.unwrap_or(BufferSettings::Limit(self.limit))
    }
}

impl HttpFilter for BufferFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        match self.settings(stream) {
            BufferSettings::Limit(_) if !body.is_end_stream() => FilterStatus::Wait,
            _ => FilterStatus::Continue,
        }
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let BufferSettings::Limit(limit) = self.settings(stream) else {
                return Ok(());
            };
            let buffered = cx.buffer_request(body, limit).await?;
            let length = HeaderValue::from(buffered.data.len());
            let headers = &mut stream.request.headers;
            headers.insert_if_absent(&header::CONTENT_LENGTH, length);
            Ok(())
        })
    }
}
