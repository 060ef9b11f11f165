//! Each table was recorded with Envoy 1.40.0: one digit for each case, `1` if the matcher matched.

use api::header_matcher::HeaderMatchSpecifier as Header;
use api::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
use matcher::string_matcher::MatchPattern;
use outrider_codec::HeaderValue;
use outrider_config::api::envoy::r#type::matcher::v3 as matcher;
use outrider_config::api::envoy::r#type::v3::Int64Range;

use super::*;

fn head(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::try_from(*value).unwrap());
    }
    RequestHead {
        method: method.parse().unwrap(),
        scheme: Some(http::uri::Scheme::HTTP),
        authority: HeaderValue::try_from(host).ok(),
        path: Some(path.try_into().unwrap()),
        headers: map,
    }
}

fn string(pattern: MatchPattern, ignore_case: bool) -> matcher::StringMatcher {
    matcher::StringMatcher {
        ignore_case,
        match_pattern: Some(pattern),
    }
}

fn exact(text: &str) -> matcher::StringMatcher {
    string(MatchPattern::Exact(text.to_owned()), false)
}

fn bits(results: impl Iterator<Item = bool>) -> String {
    results.map(|held| if held { '1' } else { '0' }).collect()
}

const HEADERS: [&[&str]; 12] = [
    &[],
    &[""],
    &["v"],
    &["V"],
    &["5"],
    &["-7"],
    &["v", "w"],
    &["v,w"],
    &["v"],
    &["5x"],
    &["+5"],
    &["9223372036854775808"],
];

/// `flags`: `i` to invert, `e` to treat a missing header as empty.
fn check_header(specifier: impl Into<Option<Header>>, flags: &str, expected: &str) {
    let config = api::HeaderMatcher {
        name: "X-A".to_owned(),
        invert_match: flags.contains('i'),
        treat_missing_header_as_empty: flags.contains('e'),
        header_match_specifier: specifier.into(),
    };
    let built = HeaderMatcher::build(&config, &FieldPath::root()).unwrap();
    let results = HEADERS.iter().map(|values| {
        let headers: Vec<_> = values.iter().map(|value| ("x-a", *value)).collect();
        built.matches(&head("GET", "h.test", "/", &headers))
    });
    assert_eq!(bits(results), expected, "{config:?}");
}

fn regex(regex: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: regex.to_owned(),
        ..Default::default()
    }
}

#[test]
fn deprecated_forms_match_as_in_envoy() {
    let exact = |text: &str| Header::ExactMatch(text.to_owned());
    check_header(exact("v"), "", "001000101000");
    check_header(exact("v"), "i", "010111010111");
    check_header(exact(""), "", "011111111111");
    check_header(Header::PrefixMatch("v".to_owned()), "", "001000111000");
    check_header(Header::SuffixMatch("w".to_owned()), "", "000000110000");
    check_header(Header::ContainsMatch(",".to_owned()), "", "000000010000");
    check_header(Header::SafeRegexMatch(regex("v")), "", "001000101000");
    check_header(Header::SafeRegexMatch(regex("v.*")), "", "001000111000");
}

#[test]
fn presence_and_ranges_match_as_in_envoy() {
    let range = |start, end| Header::RangeMatch(Int64Range { start, end });
    check_header(None, "", "011111111111");
    check_header(None, "i", "100000000000");
    check_header(Header::PresentMatch(true), "e", "111111111111");
    check_header(Header::PresentMatch(true), "i", "100000000000");
    check_header(Header::PresentMatch(false), "", "100000000000");
    check_header(Header::PresentMatch(false), "e", "000000000000");
    check_header(Header::PresentMatch(false), "i", "011111111111");
    check_header(range(-10, 6), "", "000011000010");
    check_header(range(-10, 6), "i", "011100111101");
    check_header(range(5, 1), "", "000000000000");
    check_header(range(0, 1), "e", "000000000000");
}

#[test]
fn strings_match_as_in_envoy() {
    let ignoring_case = |pattern| Header::StringMatch(string(pattern, true));
    let exact = |text| Header::StringMatch(exact(text));
    check_header(exact("v,w"), "", "000000010000");
    check_header(exact(""), "", "010000000000");
    check_header(exact(""), "e", "110000000000");
    check_header(exact(""), "ie", "001111111111");
    check_header(exact("v"), "ie", "110111010111");
    let text = str::to_owned;
    check_header(
        ignoring_case(MatchPattern::Exact(text("V"))),
        "",
        "001100101000",
    );
    check_header(
        ignoring_case(MatchPattern::Prefix(text("V"))),
        "",
        "001100111000",
    );
    check_header(
        ignoring_case(MatchPattern::Contains(text(",W"))),
        "",
        "000000010000",
    );
}

#[test]
fn pseudo_headers_match() {
    let request = head("GET", "h.test", "/m?x", &[]);
    for (name, value, held) in [
        (":method", "GET", true),
        (":authority", "h.test", true),
        ("HOST", "h.test", true),
        (":path", "/m?x", true),
        (":scheme", "http", true),
        (":method", "POST", false),
        ("a b", "x", false),
    ] {
        let config = api::HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(Header::StringMatch(exact(value))),
            ..Default::default()
        };
        let built = HeaderMatcher::build(&config, &FieldPath::root()).unwrap();
        assert_eq!(built.matches(&request), held, "{name}");
    }
}

#[test]
fn query_parameters_match_as_in_envoy() {
    const QUERIES: [&str; 16] = [
        "", "a", "a=", "a=v", "A=v", "a=V", "b=1&a=v", "a=w&a=v", "a=%76", "a=v%", "xa=v", "&a=v",
        "a==v", "%61=v", "a=v+w", "a;b=v",
    ];
    for (specifier, expected) in [
        (None, "0111011111011010"),
        (Some(Query::PresentMatch(true)), "0111011111011010"),
        (Some(Query::PresentMatch(false)), "1000100000100101"),
        (Some(Query::StringMatch(exact("v"))), "0001001000010000"),
        (Some(Query::StringMatch(exact(""))), "0110000000000000"),
        (Some(Query::StringMatch(exact("%76"))), "0000000010000000"),
        (Some(Query::StringMatch(exact("=v"))), "0000000000001000"),
    ] {
        let config = api::QueryParameterMatcher {
            name: "a".to_owned(),
            query_parameter_match_specifier: specifier,
        };
        let built = QueryMatcher::build(&config, &FieldPath::root()).unwrap();
        assert_eq!(
            bits(QUERIES.iter().map(|query| built.matches(query))),
            expected,
            "{config:?}"
        );
    }
}

#[test]
fn cookies_match_as_in_envoy() {
    const COOKIES: [&[&str]; 10] = [
        &[],
        &["a=v"],
        &["b=1; a=v"],
        &["a=v; a=w"],
        &["a=w; a=v"],
        &["a=\"v\""],
        &["a"],
        &["b=1", "a=v"],
        &["A=v"],
        &["a= v"],
    ];
    for (value, invert_match, expected) in [
        ("v", false, "0111010100"),
        ("v", true, "1000101011"),
        ("", false, "0000000000"),
    ] {
        let config = api::CookieMatcher {
            name: "a".to_owned(),
            string_match: Some(exact(value)),
            invert_match,
        };
        let built = CookieMatcher::build(&config, &FieldPath::root()).unwrap();
        let results = COOKIES.iter().map(|values| {
            let headers: Vec<_> = values.iter().map(|value| ("cookie", *value)).collect();
            built.matches(&head("GET", "h", "/", &headers))
        });
        assert_eq!(bits(results), expected, "{config:?}");
    }
}

#[test]
fn ignore_case_with_a_regex_is_refused() {
    let regex = MatchPattern::SafeRegex(matcher::RegexMatcher {
        regex: "a".to_owned(),
        ..Default::default()
    });
    let error = StringMatcher::build(&string(regex, true), &FieldPath::root()).unwrap_err();
    assert_eq!(error.message, "ignore_case has no effect for safe_regex.");
}
