//! The cryptography: `aws-lc-rs`, with OpenSSL's and Envoy's names of its parts.

use std::sync::Arc;

use aws_lc_rs::agreement;
use rustls::CipherSuite;
use rustls::Error;
use rustls::NamedGroup;
use rustls::SupportedCipherSuite;
use rustls::crypto::ActiveKeyExchange;
use rustls::crypto::CryptoProvider;
use rustls::crypto::GetRandomFailed;
use rustls::crypto::SharedSecret;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs as lc;

/// The cipher suites of TLS 1.2 that `rustls` has, in Envoy's order of preference.
const SUITES: [(&str, SupportedCipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        lc::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        lc::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        lc::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        lc::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        lc::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        lc::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
];

/// Cipher suites of TLS 1.3. No setting selects them.
const SUITES_OF_TLS13: [SupportedCipherSuite; 3] = [
    lc::cipher_suite::TLS13_AES_128_GCM_SHA256,
    lc::cipher_suite::TLS13_AES_256_GCM_SHA384,
    lc::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Key exchange groups by Envoy's names, in its order of preference.
const GROUPS: [(&str, &dyn SupportedKxGroup); 5] = [
    ("X25519MLKEM768", lc::kx_group::X25519MLKEM768),
    ("X25519", lc::kx_group::X25519),
    ("P-256", lc::kx_group::SECP256R1),
    ("P-384", lc::kx_group::SECP384R1),
    ("P-521", &Secp521),
];

/// The groups that are used unless `ecdh_curves` is set.
const DEFAULT_GROUPS: [&str; 3] = ["X25519MLKEM768", "X25519", "P-256"];

/// The suites of TLS 1.2 with these names, or all of them, and those of TLS 1.3.
pub(crate) fn suites(names: Option<&[&str]>) -> Vec<SupportedCipherSuite> {
    let chosen: Vec<SupportedCipherSuite> = match names {
        None => SUITES.iter().map(|(_, suite)| *suite).collect(),
        Some(names) => names
            .iter()
            .filter_map(|name| find(&SUITES, name))
            .collect(),
    };
    SUITES_OF_TLS13.into_iter().chain(chosen).collect()
}

/// The groups with these names, or Envoy's default.
pub(crate) fn groups(names: Option<&[&str]>) -> Vec<&'static dyn SupportedKxGroup> {
    let names = names.unwrap_or(&DEFAULT_GROUPS);
    names
        .iter()
        .filter_map(|name| find(&GROUPS, name))
        .collect()
}

/// The names of all suites of TLS 1.2.
pub(crate) fn suite_names() -> Vec<&'static str> {
    SUITES.iter().map(|(name, _)| *name).collect()
}

/// The names of all groups.
pub(crate) fn group_names() -> Vec<&'static str> {
    GROUPS.iter().map(|(name, _)| *name).collect()
}

fn find<T: Copy>(table: &[(&str, T)], wanted: &str) -> Option<T> {
    let found = table.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| *value)
}

/// A provider with these suites and groups.
pub(crate) fn provider(
    suites: Vec<SupportedCipherSuite>,
    groups: Vec<&'static dyn SupportedKxGroup>,
) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: groups,
        ..lc::default_provider()
    })
}

/// OpenSSL's name of a cipher suite.
pub(crate) fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => return "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => return "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => return "TLS_CHACHA20_POLY1305_SHA256",
        _ => {}
    }
    let found = SUITES.iter().find(|(_, known)| *known == suite);
    found.map_or("", |(name, _)| *name)
}

/// Envoy's name of a group.
pub(crate) fn group_name(group: NamedGroup) -> &'static str {
    let found = GROUPS.iter().find(|(_, known)| known.name() == group);
    found.map_or("", |(name, _)| *name)
}

/// The curve P-521, which `rustls` does not provide.
#[derive(Debug)]
struct Secp521;

struct Secp521Exchange {
    private: agreement::EphemeralPrivateKey,
    public: agreement::PublicKey,
}

impl SupportedKxGroup for Secp521 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let private = agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P521, &random)
            .map_err(|_| GetRandomFailed)?;
        let public = private.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Secp521Exchange { private, public }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for Secp521Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let bad_share = Error::from(rustls::PeerMisbehaved::InvalidKeyShare);
        // Only the uncompressed form is allowed (RFC 8446, 4.2.8.2).
        if peer.first() != Some(&4) {
            return Err(bad_share);
        }
        let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P521, peer);
        agreement::agree_ephemeral(self.private, peer, bad_share, |secret| {
            Ok(SharedSecret::from(secret))
        })
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }
}
