//! Headers that the connection manager sets on every response, local or from upstream: `server`, `date`, `via`,
//! `x-request-id`.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as Message;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ServerHeaderTransformation;

use crate::names;
use crate::request;

/// The options of the connection manager for responses.
#[derive(Debug)]
pub(crate) struct ResponseOptions {
    server: HeaderValue,
    transformation: ServerHeaderTransformation,
    via: Option<HeaderValue>,
    always_set_request_id: bool,
}

impl ResponseOptions {
    pub(crate) fn build(
        message: &Message,
        path: &FieldPath,
        via: Option<HeaderValue>,
    ) -> Result<ResponseOptions, ConfigError> {
        let server = match message.server_name.as_str() {
            "" => HeaderValue::from_static("envoy"),
            name => HeaderValue::try_from(name).map_err(|_| {
                ConfigError::new(
                    &path.field("server_name"),
                    format!("{name:?} is no header value"),
                )
            })?,
        };
        Ok(ResponseOptions {
            server,
            transformation: message.server_header_transformation(),
            via,
            always_set_request_id: message.always_set_request_id_in_response,
        })
    }

    /// Prepares the head of a final response for the client. `date` is the time now; `request` are the request's
    /// headers as they were sent upstream.
    pub(crate) fn apply(
        &self,
        headers: &mut HeaderMap,
        request: &HeaderMap,
        is_upgraded: bool,
        date: HeaderValue,
    ) {
        headers.insert_if_absent(&header::DATE, date);
        match self.transformation {
            ServerHeaderTransformation::Overwrite => {
                headers.insert(&header::SERVER, self.server.clone());
            }
            ServerHeaderTransformation::AppendIfAbsent => {
                headers.insert_if_absent(&header::SERVER, self.server.clone());
            }
            ServerHeaderTransformation::PassThrough => {}
        }
        self.apply_to_any(headers, request, is_upgraded);
        if let Some(via) = &self.via {
            request::append_value(headers, &header::VIA, via);
        }
    }

    /// The part of [`apply`](Self::apply) that also applies to interim (1xx) responses.
    pub(crate) fn apply_to_any(
        &self,
        headers: &mut HeaderMap,
        request: &HeaderMap,
        is_upgraded: bool,
    ) {
        headers.remove_any(if is_upgraded {
            names::HOP_BY_HOP_EXCEPT_UPGRADE
        } else {
            names::HOP_BY_HOP
        });
        if (self.always_set_request_id || request.contains_key(&header::X_ENVOY_FORCE_TRACE))
            && let Some(id) = request.get(&header::X_REQUEST_ID)
        {
            headers.insert(&header::X_REQUEST_ID, id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use outrider_codec::HeaderName;

    use super::*;

    fn apply(options: &Message, sent: &[(&HeaderName, &'static str)]) -> HeaderMap {
        let via = (!options.via.is_empty()).then(|| options.via.parse().unwrap());
        let options = ResponseOptions::build(options, &FieldPath::root(), via).unwrap();
        let sent = sent
            .iter()
            .map(|&(name, value)| (name, HeaderValue::from_static(value)));
        let mut headers: HeaderMap = sent.collect();
        let request =
            HeaderMap::from_iter([(&header::X_REQUEST_ID, HeaderValue::from_static("id"))]);
        options.apply(
            &mut headers,
            &request,
            false,
            HeaderValue::from_static("now"),
        );
        headers
    }

    #[test]
    fn keeps_the_date_and_overwrites_the_server() {
        let headers = apply(
            &Message::default(),
            &[
                (&header::DATE, "then"),
                (&header::SERVER, "back"),
                (&header::CONNECTION, "close"),
            ],
        );
        assert_eq!(
            (&headers["date"], &headers["server"]),
            (
                &HeaderValue::from_static("then"),
                &HeaderValue::from_static("envoy")
            )
        );
        assert_eq!(headers.len(), 2);
        assert_eq!(apply(&Message::default(), &[])["date"], "now");
    }

    #[test]
    fn applies_its_options() {
        let mut message = Message {
            server_name: "mine".to_owned(),
            via: "proxy".to_owned(),
            always_set_request_id_in_response: true,
            ..Message::default()
        };
        message.set_server_header_transformation(ServerHeaderTransformation::AppendIfAbsent);
        let headers = apply(
            &message,
            &[(&header::SERVER, "back"), (&header::VIA, "before")],
        );
        assert_eq!(headers["server"], "back");
        assert_eq!(headers["via"], "before, proxy");
        assert_eq!(headers["x-request-id"], "id");
        message.set_server_header_transformation(ServerHeaderTransformation::PassThrough);
        assert!(!apply(&message, &[]).contains_key("server"));
    }
}
