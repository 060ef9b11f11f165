use super::*;

const RULES: HeaderRules = HeaderRules {
    max_bytes: 1000,
    max_count: 10,
    underscores: UnderscoresAction::Allow,
    extended_connect: true,
};

fn fields(kind: BlockKind, rules: &HeaderRules, list: &[(&str, &str)]) -> BlockFields {
    let mut fields = BlockFields::new(kind);
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
            Ok(value) => DecodedValue::Valid(value),
            Err(_) => DecodedValue::Malformed(Bytes::copy_from_slice(value.as_bytes())),
        };
        let stats = &Http2Stats::default();
        fields.add(&name, &value, size, &FieldChecker { rules, stats });
    }
    fields
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/"),
];

fn error_with(extra: &[(&str, &str)]) -> Option<BlockError> {
    let list = [&GET[..], extra].concat();
    fields(BlockKind::Request, &RULES, &list)
        .request(true)
        .err()
}

#[test]
fn a_request_is_built() {
    let extra = [
        ("cookie", "a=1"),
        ("te", "trailers"),
        ("host", "b"),
        ("cookie", "b=2"),
    ];
    let list = [&GET[..], &extra].concat();
    let head = fields(BlockKind::Request, &RULES, &list)
        .request(true)
        .unwrap();
    assert_eq!((&head.method, head.path()), (&Method::GET, "/"));
    assert_eq!(head.authority.unwrap(), "a");
    assert_eq!(head.headers["cookie"], "a=1; b=2");
    assert!(!head.headers.contains_key("host"));
}

#[test]
fn forbidden_fields_are_errors() {
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
        assert_eq!(
            error_with(&[extra]),
            Some(BlockError::InvalidField),
            "{extra:?}"
        );
    }
    assert_eq!(
        error_with(&[("x", "y"), (":protocol", "a")]),
        Some(BlockError::InvalidField)
    );
    assert_eq!(
        error_with(&[("content-length", "2")]),
        Some(BlockError::InvalidMessage)
    );
    assert_eq!(error_with(&[("content-length", "0")]), None);
}

#[test]
fn requests_need_their_pseudo_fields() {
    for missing in 0..GET.len() {
        let mut list = GET.to_vec();
        list.remove(missing);
        let result = fields(BlockKind::Request, &RULES, &list).request(true);
        assert_eq!(result.err(), Some(BlockError::InvalidMessage), "{list:?}");
    }
    let connect = [(":method", "CONNECT"), (":authority", "a:80")];
    assert!(
        fields(BlockKind::Request, &RULES, &connect)
            .request(false)
            .is_ok()
    );
    let star = [GET[0], GET[1], GET[2], (":path", "*")];
    assert_eq!(
        fields(BlockKind::Request, &RULES, &star)
            .request(true)
            .err(),
        Some(BlockError::InvalidMessage)
    );
}

#[test]
fn limits_and_the_underscores_action_are_applied() {
    let large = "x".repeat(1000);
    assert_eq!(error_with(&[("x", &large)]), Some(BlockError::TooLarge));
    assert_eq!(
        error_with(&[("x", "y"); 7]),
        Some(BlockError::TooManyFields)
    );
    let list = [&GET[..], &[("a_b", "1")]].concat();
    let with = |underscores| {
        let rules = HeaderRules {
            underscores,
            ..RULES
        };
        let head = fields(BlockKind::Request, &rules, &list).request(true);
        head.map(|head| head.headers.len())
    };
    assert_eq!(with(UnderscoresAction::Allow), Ok(1));
    assert_eq!(with(UnderscoresAction::Drop), Ok(0));
    assert_eq!(with(UnderscoresAction::Reject), Err(BlockError::Underscore));
}

#[test]
fn the_number_of_fields_is_limited_whatever_the_config() {
    let rules = HeaderRules {
        max_bytes: usize::MAX,
        max_count: usize::MAX,
        ..RULES
    };
    let names: Vec<String> = (0..30_000).map(|i| format!("x{i}")).collect();
    let list: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let block_error = fields(BlockKind::Trailers, &rules, &list)
        .trailers(true)
        .err();
    assert_eq!(block_error, Some(BlockError::TooManyFields));
}

#[test]
fn responses_need_a_status_and_trailers_must_end_the_stream() {
    let answer = |list: &[_]| {
        fields(BlockKind::Response, &RULES, list)
            .response(false)
            .err()
    };
    assert_eq!(answer(&[(":status", "200")]), None);
    assert_eq!(answer(&[("x", "y")]), Some(BlockError::InvalidMessage));
    assert_eq!(
        answer(&[(":status", "101")]),
        Some(BlockError::InvalidField)
    );
    assert_eq!(
        answer(&[(":status", "2000")]),
        Some(BlockError::InvalidField)
    );
    assert_eq!(
        answer(&[(":method", "GET")]),
        Some(BlockError::InvalidField)
    );
    let trailers = |ends| {
        fields(BlockKind::Trailers, &RULES, &[("x", "y")])
            .trailers(ends)
            .err()
    };
    assert_eq!(
        (trailers(true), trailers(false)),
        (None, Some(BlockError::InvalidMessage))
    );
}
