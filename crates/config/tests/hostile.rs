//! No input makes the reader panic, hang or use unbounded memory.

use std::time::Duration;
use std::time::Instant;

use outrider_config::Format;
use outrider_config::Source;
use outrider_config::json::to_json;
use outrider_config::load_texts;

const SEEDS: [&str; 3] = [
    "node: {id: a, metadata: {b: [1, yes, ~, 1.5]}}\nadmin:\n  access_log_path: \"/dev/null\"\n  address: &a\n    socket_address: {address: 127.0.0.1, port_value: 0x10}\n",
    "static_resources:\n  clusters:\n  - name: c\n    connect_timeout: 0.25s\n    load_assignment: {cluster_name: c, endpoints: {lb_endpoints: []}}\n    typed_extension_protocol_options:\n      x: {\"@type\": t.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}\n",
    "{\"static_resources\": {\"listeners\": [{\"name\": \"l\", \"filter_chains\": [{\"filters\": [{\"name\": \"h\", \"typed_config\": {\"@type\": \"t.com/xds.type.v3.TypedStruct\", \"type_url\": \"t.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\", \"value\": {\"stat_prefix\": \"x\"}}}]}]}]}}",
];

const SPLICES: [&[u8]; 16] = [
    b":",
    b"\t",
    b"\n",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"*a",
    b"&a ",
    b"\"",
    b"~",
    b"|\n",
    b"\xff",
    b"999999999999999999999",
    b"@type",
];

/// A number below `bound`, or 0.
fn below(random: &mut fastrand::Rng, bound: usize) -> usize {
    random.usize(..bound.max(1))
}

fn mutate(seed: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut text = seed.to_vec();
    for _ in 0..=below(random, 6) {
        let at = below(random, text.len() + 1);
        match below(random, 4) {
            0 => {
                let splice = SPLICES[below(random, SPLICES.len())];
                text.splice(at..at, splice.iter().copied());
            }
            1 => text.truncate(at.max(1)),
            2 => {
                let end = (at + below(random, 20)).min(text.len());
                let piece = text[at..end].to_vec();
                let to = below(random, text.len() + 1);
                text.splice(to..to, piece);
            }
            _ => {
                let end = (at + below(random, 8)).min(text.len());
                text.drain(at..end);
            }
        }
    }
    text
}

fn read(text: Vec<u8>, format: Format) -> bool {
    let source = Source {
        name: "x".to_owned(),
        text,
        format,
    };
    match load_texts(&[source], false) {
        Ok(loaded) => to_json("envoy.config.bootstrap.v3.Bootstrap", &loaded.wire).is_ok(),
        Err(errors) => !errors.to_string().is_empty(),
    }
}

#[test]
fn mutated_texts_never_panic() {
    let mut random = fastrand::Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for round in 0..3_000 {
        let seed = SEEDS[round % SEEDS.len()].as_bytes();
        let text = mutate(seed, &mut random);
        for format in [Format::Yaml, Format::Json, Format::Protobuf] {
            assert!(
                read(text.clone(), format),
                "{format:?} {:?}",
                String::from_utf8_lossy(&text)
            );
        }
    }
}

#[test]
fn mutated_bytes_never_panic() {
    let source = Source {
        name: "x".to_owned(),
        text: SEEDS[1].into(),
        format: Format::Yaml,
    };
    let wire = load_texts(&[source], false).unwrap().wire;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5_000 {
        let mut bytes = wire.clone();
        for _ in 0..=below(&mut random, 3) {
            let at = below(&mut random, bytes.len());
            bytes[at] = below(&mut random, 256) as u8;
        }
        assert!(read(bytes, Format::Protobuf));
    }
}

#[test]
fn inputs_that_would_expand_without_limit_are_refused_quickly() {
    let mut aliases = "node:\n  metadata:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = level - 1;
        aliases.push_str(&format!(
            "    a{level}: &a{level} [{}]\n",
            vec![format!("*a{before}"); 10].join(", ")
        ));
    }
    let bombs = [
        ("aliases", aliases),
        ("brackets", "[".repeat(1 << 20)),
        ("braces", "{a: ".repeat(1 << 18)),
        ("dashes", "- ".repeat(1 << 18)),
        (
            "indents",
            (0..3000)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect(),
        ),
        ("tabs", "a:\tb\n".repeat(20_000)),
        (
            "keys",
            (0..100_000).map(|key| format!("k{key}: 1\n")).collect(),
        ),
        ("repeated key", "a: 1\n".repeat(200_000)),
        ("quotes", "\"".repeat(1 << 20)),
        ("size", " ".repeat((64 << 20) + 1)),
    ];
    for (name, text) in bombs {
        for format in [Format::Yaml, Format::Json] {
            let started = Instant::now();
            assert!(read(text.clone().into_bytes(), format));
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{name} as {format:?} took {:?}",
                started.elapsed()
            );
        }
    }
}
