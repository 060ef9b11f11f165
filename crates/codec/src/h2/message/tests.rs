use super::*;

const RULES: Rules = Rules {
    max_bytes: 1000,
    max_count: 10,
    underscores: UnderscoresAction::Allow,
    extended_connect: true,
};

fn fields(kind: Kind, rules: &Rules, list: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new(kind);
    for (name, value) in list {
        let size = name.len() + value.len();
        let name = match *name {
            ":method" => Name::Method,
            ":scheme" => Name::Scheme,
            ":authority" => Name::Authority,
            ":path" => Name::Path,
            ":protocol" => Name::Protocol,
            ":status" => Name::Status,
            name if name.starts_with(':') => Name::UnknownPseudo,
            name => match HeaderName::from_lowercase(name.as_bytes()) {
                Ok(name) => Name::Header(name),
                Err(_) => Name::Malformed(Bytes::copy_from_slice(name.as_bytes())),
            },
        };
        let value = match HeaderValue::try_from(*value) {
            Ok(value) => Value::Valid(value),
            Err(_) => Value::Malformed(Bytes::copy_from_slice(value.as_bytes())),
        };
        let stats = &Http2Stats::default();
        fields.add(&name, &value, size, &Judge { rules, stats });
    }
    fields
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
];

fn flaw_with(extra: &[(&str, &str)]) -> Option<Flaw> {
    let list = [&GET[..], extra].concat();
    fields(Kind::Request, &RULES, &list).request(true).err()
}

#[test]
fn a_request_is_taken_apart() {
    let extra = [
        ("cookie", "a=1"),
        ("te", "trailers"),
        ("host", "b"),
        ("cookie", "b=2"),
    ];
    let list = [&GET[..], &extra].concat();
    let head = fields(Kind::Request, &RULES, &list).request(true).unwrap();
    assert_eq!((&head.method, head.path()), (&Method::GET, "/"));
    assert_eq!(head.authority.unwrap(), "a");
    assert_eq!(head.headers["cookie"], "a=1; b=2");
    assert!(!head.headers.contains_key("host"));
}

#[test]
fn fields_that_may_not_be_there_are_flaws() {
    for extra in [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "a"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("X-Upper", "a"),
        ("a b", "c"),
        ("", "c"),
        ("x", "a\nb"),
        ("host", ""),
        ("host", "a@b"),
        (":status", "200"),
        (":bogus", "a"),
        (":path", "/"),
        ("content-length", "1x"),
    ] {
        assert_eq!(flaw_with(&[extra]), Some(Flaw::Field), "{extra:?}");
    }
    assert_eq!(
        flaw_with(&[("x", "y"), (":protocol", "a")]),
        Some(Flaw::Field)
    );
    assert_eq!(flaw_with(&[("content-length", "2")]), Some(Flaw::Message));
    assert_eq!(flaw_with(&[("content-length", "0")]), None);
}

#[test]
fn requests_need_their_pseudo_fields() {
    for missing in 0..GET.len() {
        let mut list = GET.to_vec();
        list.remove(missing);
        let result = fields(Kind::Request, &RULES, &list).request(true);
        assert_eq!(result.err(), Some(Flaw::Message), "{list:?}");
    }
    let connect = [(":method", "CONNECT"), (":authority", "a:80")];
    assert!(
        fields(Kind::Request, &RULES, &connect)
            .request(false)
            .is_ok()
    );
    let star = [GET[0], GET[1], GET[2], (":path", "*")];
    assert_eq!(
        fields(Kind::Request, &RULES, &star).request(true).err(),
        Some(Flaw::Message)
    );
}

#[test]
fn limits_and_underscores_are_enforced() {
    let large = "x".repeat(1000);
    assert_eq!(flaw_with(&[("x", &large)]), Some(Flaw::TooLarge));
    assert_eq!(flaw_with(&[("x", "y"); 7]), Some(Flaw::TooManyFields));
    let list = [&GET[..], &[("a_b", "1")]].concat();
    let with = |underscores| {
        let rules = Rules {
            underscores,
            ..RULES
        };
        let head = fields(Kind::Request, &rules, &list).request(true);
        head.map(|head| head.headers.len())
    };
    assert_eq!(with(UnderscoresAction::Allow), Ok(1));
    assert_eq!(with(UnderscoresAction::Drop), Ok(0));
    assert_eq!(with(UnderscoresAction::Reject), Err(Flaw::Underscore));
}

#[test]
fn no_config_allows_more_fields_than_can_be_looked_through() {
    let rules = Rules {
        max_bytes: usize::MAX,
        max_count: usize::MAX,
        ..RULES
    };
    let names: Vec<String> = (0..30_000).map(|i| format!("x{i}")).collect();
    let list: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let flaw = fields(Kind::Trailers, &rules, &list).trailers(true).err();
    assert_eq!(flaw, Some(Flaw::TooManyFields));
}

#[test]
fn answers_need_a_status_and_trailers_an_end() {
    let answer = |list: &[_]| fields(Kind::Response, &RULES, list).response(false).err();
    assert_eq!(answer(&[(":status", "200")]), None);
    assert_eq!(answer(&[("x", "y")]), Some(Flaw::Message));
    assert_eq!(answer(&[(":status", "101")]), Some(Flaw::Field));
    assert_eq!(answer(&[(":status", "2000")]), Some(Flaw::Field));
    assert_eq!(answer(&[(":method", "GET")]), Some(Flaw::Field));
    let trailers = |ends| {
        fields(Kind::Trailers, &RULES, &[("x", "y")])
            .trailers(ends)
            .err()
    };
    assert_eq!(
        (trailers(true), trailers(false)),
        (None, Some(Flaw::Message))
    );
}
