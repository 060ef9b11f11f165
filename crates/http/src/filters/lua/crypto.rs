//! Public keys and signatures.

use std::rc::Rc;

use aws_lc_rs::signature;
use aws_lc_rs::signature::UnparsedPublicKey;
use aws_lc_rs::signature::VerificationAlgorithm;
use mlua::Lua;
use mlua::LuaString;
use mlua::UserData;
use mlua::UserDataMethods;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::handle::add_logs;
use super::machine::fail;
use super::run::Run;

/// The object of a public key. Scripts pass its `get()` to `verifySignature()`.
pub(super) struct PublicKey(Vec<u8>);

impl PublicKey {
    pub(super) fn new(der: Vec<u8>) -> PublicKey {
        PublicKey(der)
    }
}

impl UserData for PublicKey {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("get", |lua, this, ()| {
            let is_valid = key_kind(&this.0).is_some();
            let text = is_valid.then(|| lua.create_string(&this.0));
            text.transpose()
        });
    }
}

/// The first `length` bytes of an argument.
pub(super) fn prefix(lua: &Lua, text: &LuaString, length: f64) -> mlua::Result<Vec<u8>> {
    let bytes = text.as_bytes();
    let part = (length >= 0.0).then(|| bytes.get(..length as usize));
    match part.flatten() {
        Some(part) => Ok(part.to_vec()),
        None => {
            let text = format!("a length of {length} for a text of {} bytes", bytes.len());
            Err(fail(lua, text))
        }
    }
}

/// The arguments of `verifySignature()`: the hash function, the key, the signature and the text.
type Arguments = (LuaString, LuaString, LuaString, f64, LuaString, f64);

/// `verifySignature()`: whether the signature is valid, and if not, why.
pub(super) fn verify(
    lua: &Lua,
    _: &Rc<Run>,
    (hash, key, signature, signature_length, text, text_length): Arguments,
) -> mlua::Result<(bool, Option<String>)> {
    let hash = hash.to_string_lossy().to_lowercase();
    let signature = prefix(lua, &signature, signature_length)?;
    let text = prefix(lua, &text, text_length)?;
    let key = key.as_bytes();
    let kind = key_kind(&key).ok_or_else(|| fail(lua, "invalid public key"))?;
    let Some(algorithm) = algorithm(&kind, &hash) else {
        let known = ["sha1", "sha224", "sha256", "sha384", "sha512"].contains(&hash.as_str());
        if known {
            let text = format!("verifySignature() is not supported for this key with {hash}");
            return Err(fail(lua, text));
        }
        return Ok((false, Some(format!("{hash} is not supported."))));
    };
    let public = match kind {
        KeyKind::Rsa => key.to_vec(),
        KeyKind::Ecdsa(point) => point,
    };
    let verified = UnparsedPublicKey::new(algorithm, public).verify(&text, &signature);
    Ok(match verified {
        Ok(()) => (true, None),
        Err(_) => (
            false,
            Some("Failed to verify digest. Error code: 0".to_owned()),
        ),
    })
}

/// The kinds of keys.
enum KeyKind {
    Rsa,
    /// On the curve P-256; the point.
    Ecdsa(Vec<u8>),
}

/// The kind of a key in the form SubjectPublicKeyInfo, if it is valid.
fn key_kind(der: &[u8]) -> Option<KeyKind> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
    match info.parsed().ok()? {
        ParsedKey::RSA(_) => Some(KeyKind::Rsa),
        ParsedKey::EC(point) => Some(KeyKind::Ecdsa(point.data().to_vec())),
        _ => None,
    }
}

fn algorithm(kind: &KeyKind, hash: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (kind, hash) {
        (KeyKind::Rsa, "sha1") => &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (KeyKind::Rsa, "sha256") => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (KeyKind::Rsa, "sha384") => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa, "sha512") => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (KeyKind::Ecdsa(point), "sha256") if point.len() == 65 => {
            &signature::ECDSA_P256_SHA256_ASN1
        }
        (KeyKind::Ecdsa(point), "sha384") if point.len() == 97 => {
            &signature::ECDSA_P384_SHA384_ASN1
        }
        _ => return None,
    })
}
