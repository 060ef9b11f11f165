//! Calls with one request and one response.

use std::time::Duration;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::ResponseHead;
use outrider_codec::header;
use prost::Message;

use super::Code;
use super::GrpcService;
use super::Status;
use super::frames;
use super::frames::GrpcDecoder;
use crate::InternalClient;
use crate::ResponseBody;

impl InternalClient {
    /// Calls a unary method, a path such as `/package.Service/Method`. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The status of a call that failed, or the status that Envoy gives to a broken response: UNAVAILABLE if the service
    /// cannot be reached in time, INTERNAL if it breaks the protocol.
    pub async fn unary<T: Message + Default>(
        &self,
        service: &GrpcService,
        method: &'static str,
        request: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<T, Status> {
        let head = service.head(method, timeout);
        let body = Body::full(frames::encode(request));
        let options = service.options(timeout);
        let started = self.start(&service.cluster, head, body, &options);
        let (head, mut body) = started.await?;
        check_head(&head, &body)?;
        let mut decoder = GrpcDecoder::new(service.message_limit);
        let mut response = None;
        loop {
            match body.frame().await? {
                Some(Frame::Data(data)) => decoder.push(&data),
                Some(Frame::Trailers(trailers)) => {
                    let status = Status::from_headers(&trailers);
                    if status.code != Code::OK {
                        return Err(status);
                    }
                    let response = response.ok_or_else(|| Status::new(Code::INTERNAL, ""))?;
                    return frames::decode(response);
                }
                None => return Err(Status::new(Code::UNKNOWN, "")),
            }
            while let Some(message) = decoder.next()? {
                response = Some(message);
            }
        }
    }
}

/// Checks the head of a response, which may be the whole of it.
///
/// # Errors
/// The status of a response that has none or fails with its head.
pub(super) fn check_head(head: &ResponseHead, body: &ResponseBody) -> Result<(), Status> {
    let ends = body.is_end_stream();
    if head.status != StatusCode::OK {
        let tells = ends && head.headers.contains_key(&header::GRPC_STATUS);
        return Err(match tells {
            true => Status::from_headers(&head.headers),
            false => Status::new(Code::CANCELLED, ""),
        });
    }
    if !ends {
        return Ok(());
    }
    match Status::from_headers(&head.headers) {
        Status { code: Code::OK, .. } => Err(Status::new(Code::INTERNAL, "")),
        status => Err(status),
    }
}
