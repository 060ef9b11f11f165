//! `/reload`: reads the config file again, and shows the outcome. Envoy has no such endpoint.

use std::rc::Rc;

use super::ResponseFuture;
use crate::Admin;
use crate::request::Request;
use crate::request_body::RequestBody;
use crate::response::AdminResponse;

/// POST reloads and answers when the reload is done: 400 if the config was rejected. Other methods show the last
/// outcomes.
pub(super) fn reload(request: Request, mut body: RequestBody, admin: Rc<Admin>) -> ResponseFuture {
    Box::pin(async move {
        body.discard().await?;
        if request.method != "POST" {
            return Ok(AdminResponse::json(&admin.control.reloads()));
        }
        let reloaded = admin.control.reload().await;
        let status = if reloaded.is_applied { 200 } else { 400 };
        Ok(AdminResponse::json(&reloaded.report).with_status(status))
    })
}
