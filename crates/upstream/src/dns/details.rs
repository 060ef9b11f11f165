//! The result of a lookup in the words of Envoy's resolver library.

use hickory_proto::op::ResponseCode;

use super::Answer;
use super::query::ResolveError;
use super::query::ResolveErrorKind;

/// What the details of a request say about the lookup of its host.
pub(crate) fn answer_details(result: &Result<Answer, ResolveError>) -> String {
    let (status, text) = match result {
        Ok(answer) if !answer.addresses.is_empty() => ("success", "Successful completion"),
        Ok(answer) if answer.no_such_name => ("norecords", "Domain name not found"),
        Ok(_) => ("norecords", "DNS server returned answer with no data"),
        Err(error) => ("failure", failure(&error.kind)),
    };
    format!("cares_{status}:{text}")
}

fn failure(kind: &ResolveErrorKind) -> &'static str {
    match kind {
        ResolveErrorKind::Timeout => "Timeout while contacting DNS servers",
        ResolveErrorKind::Unreachable(_) => "Could not contact DNS servers",
        ResolveErrorKind::Server(ResponseCode::FormErr) => {
            "DNS server claims query was misformatted"
        }
        ResolveErrorKind::Server(ResponseCode::NotImp) => {
            "DNS server does not implement requested operation"
        }
        ResolveErrorKind::Server(ResponseCode::Refused) => "DNS server refused query",
        ResolveErrorKind::Server(_) => "DNS server returned general failure",
        ResolveErrorKind::Malformed(_) => "Misformatted domain name",
    }
}
