//! Secrets of the bootstrap that change while the proxy serves.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::path::Path;

use serde_json::Value;

use crate::support::Folder;
use crate::support::Server;
use crate::support::config::address_of;
use crate::support::config::bootstrap;
use crate::support::config::listener;
use crate::support::config::reload;

/// A listener whose certificate is the secret `own`, which has this certificate and key of `conformance/certs`.
fn config(certificate: &str, key: &str) -> String {
    let certs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/certs");
    let certs = certs.to_str().unwrap();
    let tls = "    - transport_socket:\n        name: tls\n        typed_config:\n          \
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
        common_tls_context: {tls_certificate_sds_secret_configs: [{name: own}]}\n      filters:";
    let listener = listener("l", "one", "").replace("    - filters:", tls);
    let secret = format!(
        "  secrets:\n  - name: own\n    tls_certificate: {{certificate_chain: {{filename: '{certs}/{certificate}.pem'}}, \
         private_key: {{filename: '{certs}/{key}.key'}}}}\n"
    );
    bootstrap(&[listener], "") + &secret
}

fn serial(server: &Server) -> String {
    let (_, certificates) = server.get("/certs");
    let certificates: Value = serde_json::from_str(&certificates).unwrap();
    let first = &certificates["certificates"][0]["cert_chain"][0];
    first["serial_number"].as_str().unwrap().to_owned()
}

#[test]
fn a_reload_replaces_static_secrets_of_running_listeners() {
    let folder = Folder::new("reload-secrets");
    let path = folder.file("e.yaml", &config("server", "server"));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let before = serial(&server);

    folder.file("e.yaml", &config("second", "second"));
    let (status, outcome) = reload(&server);
    assert_eq!(status, 200, "{outcome}");
    assert_eq!(outcome["secrets_changed"], serde_json::json!(["own"]));
    assert_eq!(outcome["listeners"]["changed"], serde_json::json!([]));
    assert_eq!(outcome["filter_chains_changed"], serde_json::json!([]));
    let after = serial(&server);
    assert_ne!(after, before);
    assert_eq!(address_of(&server, "l"), address);

    folder.file("e.yaml", &config("server", "second"));
    let (status, outcome) = reload(&server);
    assert_eq!(status, 400, "{outcome}");
    let errors = outcome["errors"].to_string();
    assert!(errors.contains("KEY_VALUES_MISMATCH"), "{errors}");
    assert!(errors.contains("static_resources.secrets[0]"), "{errors}");
    assert_eq!(serial(&server), after);
}
