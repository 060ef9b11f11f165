//! Matchers of subject alternative names: the typed ones, and the older untyped list.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::SubjectAltNameMatcher;
use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use outrider_config::api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrider_config::string_matcher::StringMatcher;

use crate::peer::PeerCertificate;

/// A condition that one of a certificate's names must meet.
#[derive(Clone, Debug)]
pub struct SanMatcher {
    kind: Kind,
    matcher: StringMatcher,
    /// Matches if the certificate's DNS names, with their wildcards, cover this name.
    exact_dns: Option<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    Dns,
    Uri,
    Email,
    Ip,
    Other(String),
    /// From the older list, which matches names of all types.
    Any,
}

impl SanMatcher {
    /// Builds the matchers of a validation context.
    pub(crate) fn build_all(
        config: &CertificateValidationContext,
        path: &FieldPath,
    ) -> Result<Vec<SanMatcher>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut matchers = Vec::new();
        let typed_path = path.field("match_typed_subject_alt_names");
        for (index, typed) in config.match_typed_subject_alt_names.iter().enumerate() {
            let built = SanMatcher::build(typed, &typed_path.index(index));
            matchers.extend(errors.collect(built));
        }
        if !matchers.is_empty() {
            // If typed matchers are set, the older list is ignored.
            return errors.finish(matchers);
        }
        let older_path = path.field("match_subject_alt_names");
        #[expect(deprecated, reason = "Envoy still obeys it")]
        let older = config.match_subject_alt_names.iter().enumerate();
        for (index, matcher) in older {
            let built = StringMatcher::build(matcher, &older_path.index(index));
            let exact_dns = match &matcher.match_pattern {
                Some(MatchPattern::Exact(name)) => Some(name.clone()),
                _ => None,
            };
            matchers.extend(errors.collect(built).map(|matcher| SanMatcher {
                kind: Kind::Any,
                matcher,
                exact_dns,
            }));
        }
        errors.finish(matchers)
    }

    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// The type or the pattern of the name is not valid.
    pub fn build(
        config: &SubjectAltNameMatcher,
        path: &FieldPath,
    ) -> Result<SanMatcher, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let kind = match config.san_type() {
            SanType::Dns => Some(Kind::Dns),
            SanType::Uri => Some(Kind::Uri),
            SanType::Email => Some(Kind::Email),
            SanType::IpAddress => Some(Kind::Ip),
            SanType::OtherName if config.oid.is_empty() => {
                errors.push(
                    &path.field("oid"),
                    "is required for the san_type OTHER_NAME",
                );
                None
            }
            SanType::OtherName => Some(Kind::Other(config.oid.clone())),
            SanType::Unspecified => {
                errors.push(&path.field("san_type"), "is required");
                None
            }
        };
        let default = Default::default();
        let matcher = config.matcher.as_ref().unwrap_or(&default);
        let exact_dns = match (&kind, &matcher.match_pattern) {
            (Some(Kind::Dns), Some(MatchPattern::Exact(name))) => Some(name.clone()),
            _ => None,
        };
        let matcher = errors.collect(StringMatcher::build(matcher, &path.field("matcher")));
        match (kind, matcher) {
            (Some(kind), Some(matcher)) if errors.is_empty() => Ok(SanMatcher {
                kind,
                matcher,
                exact_dns,
            }),
            _ => Err(errors),
        }
    }

    /// Whether one of the certificate's names matches.
    #[must_use]
    pub fn matches(&self, certificate: &PeerCertificate) -> bool {
        let text = |name: &String| self.matcher.matches(name.as_bytes());
        let dns = |name: &String| match &self.exact_dns {
            Some(wanted) => dns_name_covers(name, wanted),
            None => self.matcher.matches(name.as_bytes()),
        };
        let ips = || {
            let mut texts = certificate.ips.iter().map(ToString::to_string);
            texts.any(|ip| self.matcher.matches(ip.as_bytes()))
        };
        match &self.kind {
            Kind::Dns => certificate.dns_names.iter().any(dns),
            Kind::Uri => certificate.uris.iter().any(text),
            Kind::Email => certificate.emails.iter().any(text),
            Kind::Ip => ips(),
            Kind::Other(oid) => {
                let mut names = certificate.other_names.iter();
                names.any(|(kind, value)| kind == oid && text(value))
            }
            Kind::Any => {
                certificate.dns_names.iter().any(dns)
                    || certificate.uris.iter().any(text)
                    || certificate.emails.iter().any(text)
                    || ips()
            }
        }
    }
}

/// Whether a certificate's DNS name covers `wanted`. It may begin with a wildcard.
pub(crate) fn dns_name_covers(pattern: &str, wanted: &str) -> bool {
    if pattern.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let Some((first, parent)) = pattern.split_once('.') else {
        return false;
    };
    let Some((label, wanted_parent)) = wanted.split_once('.') else {
        return false;
    };
    // A wildcard stands for one label or a part of it, and not directly below the top-level domain.
    let Some((start, end)) = first.split_once('*') else {
        return false;
    };
    let (label, start, end) = (
        label.to_ascii_lowercase(),
        start.to_ascii_lowercase(),
        end.to_ascii_lowercase(),
    );
    parent.contains('.')
        && !end.contains('*')
        && !first.starts_with("xn--")
        && parent.eq_ignore_ascii_case(wanted_parent)
        && label.len() >= start.len() + end.len()
        && label.starts_with(&start)
        && label.ends_with(&end)
}

#[cfg(test)]
mod tests {
    use super::dns_name_covers;

    #[test]
    fn wildcards_stand_for_one_label() {
        for (pattern, name, covers) in [
            ("a.example.com", "A.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("w*.example.com", "www.example.com", true),
            ("w*.example.com", "a.example.com", false),
            ("xn--*.example.com", "xn--a.example.com", false),
            ("*", "a", false),
        ] {
            assert_eq!(dns_name_covers(pattern, name), covers, "{pattern} {name}");
        }
    }
}
