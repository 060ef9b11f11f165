//! Runs a stream through the HTTP filters, under the stream's deadlines.

use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_codec::Meter;

use crate::Stream;
use crate::deadlines::ExpiredTimeout;
use crate::filters::FilterCx;
use crate::manager::ConnectionManager;
use crate::stream::StreamEnd;
use crate::wait::StopReason;
use crate::wait::StreamWait;
use outrider_client::grpc;

impl ConnectionManager {
    /// Runs the request through the filters. They may choose another route.
    pub(super) async fn filter_request(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        wait: &mut StreamWait<'_>,
    ) -> Result<(), StopReason> {
        stream.filters = self.filters.of_route(stream.route.as_deref());
        let route = stream.route.as_ref().map(Arc::as_ptr);
        let meter = wait.respond.meter().clone();
        let find_route = |stream: &mut Stream| self.find_route(stream);
        let cx = self.filter_cx(wait, &meter, &find_route);
        wait.until(self.filters.request(stream, body, &cx))
            .await??;
        stream.is_upstream_grpc = grpc::is_request(&stream.request.headers);
        if route != stream.route.as_ref().map(Arc::as_ptr) {
            self.set_deadlines(stream, wait);
        }
        Ok(())
    }

    /// Runs the response, whose head is in the stream, through the filters. Returns its body; `None` if the stream has
    /// ended.
    pub(super) async fn filter_response(
        &self,
        end: &mut StreamEnd,
        mut body: Body,
        wait: &mut StreamWait<'_>,
    ) -> Option<Body> {
        let meter = wait.respond.meter().clone();
        let find_route = |stream: &mut Stream| self.find_route(stream);
        let cx = self.filter_cx(wait, &meter, &find_route);
        let filters = self.filters.response(&mut end.stream, &mut body, &cx);
        let reply = match wait.until_answered(filters).await {
            Ok(Ok(())) => return Some(body),
            Ok(Err(reply)) => reply,
            Err(StopReason::Reply(reply)) => *reply,
            Err(StopReason::ClientGone(error)) => {
                end.client_gone(&error);
                return None;
            }
            Err(StopReason::ExpiredTimeout(
                expired @ (ExpiredTimeout::Response
                | ExpiredTimeout::PerTry
                | ExpiredTimeout::PerTryIdle
                | ExpiredTimeout::UpstreamDuration),
            )) => {
                self.expire(end, expired, wait.respond);
                return None;
            }
            Err(StopReason::ExpiredTimeout(expired)) => {
                self.count_expired(expired);
                expired.reply(meter.receive_ended().is_some())
            }
        };
        // Dropping the body ends the request to the host.
        drop(body);
        Some(self.reply(&mut end.stream, reply, wait.respond))
    }

    fn filter_cx<'a>(
        &'a self,
        wait: &StreamWait<'a>,
        meter: &'a Rc<Meter>,
        find_route: &'a dyn Fn(&mut Stream),
    ) -> FilterCx<'a> {
        FilterCx {
            worker: &self.worker,
            clusters: &self.clusters,
            meter,
            protocol: wait.respond.protocol(),
            buffer_limit: wait.respond.body_buffer_limit() as usize,
            header_limits: self.config.codec.header_limits(),
            stats: &self.stats,
            late_reply: wait.late_reply,
            find_route,
        }
    }
}
