//! The answer of an authorization service, in the form that both kinds of service share.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use outrider_config::api::envoy::service::auth::v3::CheckResponse;
use outrider_config::api::envoy::service::auth::v3::DeniedHttpResponse;
use outrider_config::api::envoy::service::auth::v3::OkHttpResponse;
use outrider_config::api::envoy::service::auth::v3::check_response::HttpResponse;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

/// A name and a value, not checked yet.
pub(super) type Field = (String, Bytes);

/// What the service decided.
#[derive(Debug, Default)]
pub(super) struct AuthzDecision {
    pub(super) verdict: Verdict,
    /// Dynamic metadata for the filter's namespace.
    pub(super) metadata: Struct,
}

/// The decision about a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The request goes on, after these changes.
    Ok(Box<AllowedChanges>),
    /// The client gets this reply.
    Denied(Rejection),
    /// The service failed.
    Error(Rejection),
}

impl Default for Verdict {
    fn default() -> Verdict {
        Verdict::Error(Rejection::default())
    }
}

/// Changes to a request that is allowed, and to its response.
#[derive(Debug, Default)]
pub(super) struct AllowedChanges {
    pub(super) set: Vec<Field>,
    pub(super) add: Vec<Field>,
    /// Joined to headers that exist.
    pub(super) append: Vec<Field>,
    pub(super) remove: Vec<String>,
    pub(super) set_query: Vec<(String, String)>,
    pub(super) remove_query: Vec<String>,
    pub(super) response: Vec<(Field, HeaderAppendAction)>,
}

/// The reply to a request that is not allowed.
#[derive(Debug, Default)]
pub(super) struct Rejection {
    /// The HTTP status; 0 for the usual one.
    pub(super) status: u16,
    pub(super) headers: Vec<Field>,
    pub(super) body: Bytes,
}

impl AuthzDecision {
    /// Adds how long the service took to its metadata, if the request is allowed and there is any.
    pub(super) fn note_duration(&mut self, took: Duration) {
        let fields = &mut self.metadata.fields;
        if matches!(self.verdict, Verdict::Ok(_)) && !fields.is_empty() {
            let millis = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
            let kind = Some(Kind::NumberValue(millis.into()));
            fields.insert("ext_authz_duration".to_owned(), Value { kind });
        }
    }
}

impl Rejection {
    /// The status of the reply, or `usual` if the service does not say.
    pub(super) fn status(&self, usual: StatusCode) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(usual)
    }
}

impl AllowedChanges {
    /// Whether the request itself changes.
    pub(super) fn touch_request(&self) -> bool {
        !(self.set.is_empty()
            && self.add.is_empty()
            && self.append.is_empty()
            && self.remove.is_empty()
            && self.set_query.is_empty()
            && self.remove_query.is_empty())
    }
}

/// `append`, the older form of `append_action`.
#[expect(deprecated, reason = "Envoy still obeys it")]
fn appends(option: &HeaderValueOption) -> Option<bool> {
    option.append
}

impl From<CheckResponse> for AuthzDecision {
    fn from(response: CheckResponse) -> AuthzDecision {
        let code = response.status.map_or(0, |status| status.code);
        let mut metadata = response.dynamic_metadata.unwrap_or_default();
        let verdict = match (code, response.http_response) {
            (0, Some(HttpResponse::OkResponse(mut ok))) => {
                #[expect(deprecated, reason = "Envoy still obeys it")]
                if let Some(older) = ok.dynamic_metadata.take() {
                    metadata = older;
                }
                Verdict::Ok(Box::new(ok.into()))
            }
            (0, _) => Verdict::Ok(Box::default()),
            (_, Some(HttpResponse::ErrorResponse(error))) => Verdict::Error(error.into()),
            (_, Some(HttpResponse::DeniedResponse(denied))) => Verdict::Denied(denied.into()),
            (_, _) => Verdict::Denied(Rejection::default()),
        };
        AuthzDecision { verdict, metadata }
    }
}

impl From<OkHttpResponse> for AllowedChanges {
    fn from(ok: OkHttpResponse) -> AllowedChanges {
        let mut changes = AllowedChanges {
            remove: ok.headers_to_remove,
            remove_query: ok.query_parameters_to_remove,
            ..AllowedChanges::default()
        };
        for option in ok.headers {
            match appends(&option) == Some(true) {
                true => changes.append.extend(field(option)),
                false => changes.set.extend(field(option)),
            }
        }
        for parameter in ok.query_parameters_to_set {
            changes.set_query.push((parameter.key, parameter.value));
        }
        for option in ok.response_headers_to_add {
            let action = match appends(&option) {
                Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
                Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
                None => option.append_action(),
            };
            let field = field(option);
            changes.response.extend(field.map(|field| (field, action)));
        }
        changes
    }
}

impl From<DeniedHttpResponse> for Rejection {
    fn from(denied: DeniedHttpResponse) -> Rejection {
        let code = denied.status.map_or(0, |status| status.code);
        let headers = denied.headers.into_iter();
        Rejection {
            status: u16::try_from(code).unwrap_or_default(),
            // As in Envoy, headers to append are ignored: no header exists yet.
            headers: headers
                .filter(|option| appends(option) != Some(true))
                .filter_map(field)
                .collect(),
            body: denied.body.into(),
        }
    }
}

fn field(option: HeaderValueOption) -> Option<Field> {
    let header = option.header?;
    let value = match header.raw_value.is_empty() {
        true => header.value.into_bytes(),
        false => header.raw_value,
    };
    Some((header.key, value.into()))
}
