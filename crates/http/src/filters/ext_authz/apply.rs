//! Applies the changes that the service asks for to requests and responses.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_config::api::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::filters::mutation_rules::MutationDecision;
use crate::filters::mutation_rules::MutationRules;

use super::answer::AllowedChanges;
use super::answer::Field;
use super::config::ExtAuthzConfig;

/// The service asks for a change that the filter refuses.
pub(super) struct Refused;

/// Makes the changes of a request.
pub(super) fn to_request(
    config: &ExtAuthzConfig,
    changes: &AllowedChanges,
    head: &mut RequestHead,
) -> Result<(), Refused> {
    let rules = config.rules.as_ref();
    let validates = config.validates_mutations;
    for (name, value) in &changes.set {
        if is_allowed(rules, name, false)? && !set(head, name, value) && validates {
            return Err(Refused);
        }
    }
    for (name, value) in &changes.add {
        if !is_allowed(rules, name, false)? {
            continue;
        }
        match field(name, value) {
            Some((name, value)) => head.headers.append(name, value),
            None if validates => return Err(Refused),
            None => {}
        }
    }
    for (name, value) in &changes.append {
        if is_allowed(rules, name, false)? && !append(head, name, value) && validates {
            return Err(Refused);
        }
    }
    for name in &changes.remove {
        let name = name.to_ascii_lowercase();
        let removable = !name.starts_with(':') && name != "host";
        if removable && is_allowed(rules, &name, true)? {
            head.headers.remove(name.as_str());
        }
    }
    change_query(config, changes, head)
}

fn is_allowed(rules: Option<&MutationRules>, name: &str, removes: bool) -> Result<bool, Refused> {
    let Some(rules) = rules else {
        return Ok(true);
    };
    match rules.check(&name.to_ascii_lowercase(), removes) {
        MutationDecision::Allowed => Ok(true),
        MutationDecision::Ignored => Ok(false),
        MutationDecision::Refused => Err(Refused),
    }
}

/// A valid header; `None` if name or value is not valid.
pub(super) fn field(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(name.to_ascii_lowercase().as_str()).ok()?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// Sets a header or a pseudo-header. Returns whether it is valid.
fn set(head: &mut RequestHead, name: &str, value: &[u8]) -> bool {
    let text = || std::str::from_utf8(value).ok();
    match name.to_ascii_lowercase().as_str() {
        ":path" => match text().and_then(|path| Target::try_from(path).ok()) {
            Some(path) => head.path = Some(path),
            None => return false,
        },
        ":authority" | "host" => match HeaderValue::from_bytes(value) {
            Ok(host) => head.authority = Some(host),
            Err(_) => return false,
        },
        ":method" => match http::Method::from_bytes(value) {
            Ok(method) => head.method = method,
            Err(_) => return false,
        },
        ":scheme" => match http::uri::Scheme::try_from(value) {
            Ok(scheme) => head.scheme = Some(scheme),
            Err(_) => return false,
        },
        name => match field(name, value) {
            Some((name, value)) => head.headers.insert(name, value),
            None => return false,
        },
    }
    true
}

/// Adds to a header that exists, after a comma. Returns whether name and value are valid.
fn append(head: &mut RequestHead, name: &str, value: &[u8]) -> bool {
    let Some((name, value)) = field(name, value) else {
        return false;
    };
    if let Some(known) = head.headers.get(&name) {
        let joined = [known.as_bytes(), b",", value.as_bytes()].concat();
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            head.headers.insert(name, joined);
        }
    }
    true
}

/// Changes the parameters of the query.
fn change_query(
    config: &ExtAuthzConfig,
    changes: &AllowedChanges,
    head: &mut RequestHead,
) -> Result<(), Refused> {
    if changes.set_query.is_empty() && changes.remove_query.is_empty() {
        return Ok(());
    }
    let mut parameters: Vec<(String, String)> = Vec::new();
    for pair in head
        .path()
        .split_once('?')
        .map_or("", |(_, query)| query)
        .split('&')
    {
        if !pair.is_empty() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.push((name.to_owned(), value.to_owned()));
        }
    }
    for (name, value) in &changes.set_query {
        if config.validates_mutations && !(is_query_text(name) && is_query_text(value)) {
            return Err(Refused);
        }
        let at = parameters.iter().position(|(known, _)| known == name);
        parameters.retain(|(known, _)| known != name);
        let at = at.unwrap_or(parameters.len()).min(parameters.len());
        parameters.insert(at, (name.clone(), value.clone()));
    }
    parameters.retain(|(name, _)| !changes.remove_query.contains(name));
    // As in Envoy, the parameters are in the order of their names.
    parameters.sort_by(|(one, _), (other, _)| one.cmp(other));
    let pairs: Vec<_> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let path = head.path().split('?').next().unwrap_or_default();
    let path = match pairs.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", pairs.join("&")),
    };
    match Target::try_from(path) {
        Ok(path) => head.path = Some(path),
        Err(_) if config.validates_mutations => return Err(Refused),
        Err(_) => {}
    }
    Ok(())
}

/// Whether `text` may be the name or the value of a query parameter (RFC 3986 section 3.4).
fn is_query_text(text: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$'()*+,;:@/?%".contains(&byte);
    text.bytes().all(is_allowed)
}

/// Checks the headers for the response, if the filter validates changes.
pub(super) fn check_response(
    config: &ExtAuthzConfig,
    headers: &[(Field, HeaderAppendAction)],
) -> Result<(), Refused> {
    let is_valid = |(name, value): &Field| field(name, value).is_some();
    match !config.validates_mutations || headers.iter().all(|(header, _)| is_valid(header)) {
        true => Ok(()),
        false => Err(Refused),
    }
}

/// Adds headers to the response of a request that was allowed.
pub(super) fn to_response(added: &[(Field, HeaderAppendAction)], headers: &mut HeaderMap) {
    for ((name, value), action) in added {
        let Some((name, value)) = field(name, value) else {
            continue;
        };
        match action {
            HeaderAppendAction::AppendIfExistsOrAdd => headers.append(name, value),
            HeaderAppendAction::AddIfAbsent => headers.insert_if_absent(name, value),
            HeaderAppendAction::OverwriteIfExistsOrAdd => headers.insert(name, value),
            HeaderAppendAction::OverwriteIfExists => {
                if headers.contains_key(&name) {
                    headers.insert(name, value);
                }
            }
        }
    }
}
