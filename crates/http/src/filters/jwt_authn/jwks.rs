//! JSON Web Key Sets (RFC 7517): the keys with which tokens are checked.

use aws_lc_rs::hmac;
use aws_lc_rs::signature;
use aws_lc_rs::signature::EcdsaVerificationAlgorithm;
use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::signature::RsaParameters;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use aws_lc_rs::signature::UnparsedPublicKey;
use outrider_net::PeerCertificate;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::status::Status;
use super::token::Token;
use super::token::decode;
use super::token::parse_struct;
use super::token::text_of;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Jwks(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// `kid`; empty if it is not set.
    id: String,
    /// `alg`; empty if it is not set.
    algorithm: String,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// With its algorithm, in DER.
    RsaOfCertificate(Vec<u8>),
    /// The point, uncompressed.
    Ec {
        curve: Curve,
        point: Vec<u8>,
    },
    Hmac(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Jwks {
    /// Reads a key set. Keys that are not valid are left out.
    ///
    /// # Errors
    /// Why no key is left, in Envoy's words.
    pub(super) fn parse(json: &[u8]) -> Result<Jwks, &'static str> {
        let fields = parse_struct(json).ok_or("Jwks is an invalid JSON")?;
        let Some(keys) = fields.fields.get("keys") else {
            return Jwks::of_certificates(&fields);
        };
        let Some(Kind::ListValue(list)) = &keys.kind else {
            return Err("[keys] in Jwks is not an array");
        };
        let mut keys = Vec::new();
        let mut first_error = None;
        for value in &list.values {
            if let Some(Kind::StructValue(fields)) = &value.kind {
                match Key::parse(fields) {
                    Ok(key) => keys.push(key),
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
        }
        match keys.is_empty() {
            true => Err(first_error.unwrap_or("Jwks doesn't have any valid public key")),
            false => Ok(Jwks(keys)),
        }
    }

    /// The other form of a key set: certificates by the id of their key. All must be valid.
    fn of_certificates(fields: &Struct) -> Result<Jwks, &'static str> {
        const NO_KEYS: &str = "Jwks does not have [keys] field";
        if fields.fields.is_empty() {
            return Err(NO_KEYS);
        }
        let pem = |id: &String, value: &Value| match &value.kind {
            Some(Kind::StringValue(pem)) => {
                let is_pem = pem.starts_with("-----BEGIN CERTIFICATE-----\n")
                    && pem.ends_with("\n-----END CERTIFICATE-----\n");
                (is_pem && !id.is_empty()).then(|| (id.clone(), pem.clone()))
            }
            _ => None,
        };
        let pems = fields.fields.iter().map(|(id, value)| pem(id, value));
        let pems: Option<Vec<_>> = pems.collect();
        let keys = pems.ok_or(NO_KEYS)?.into_iter().map(|(id, pem)| {
            let certificate = PeerCertificate::from_pem(pem.as_bytes());
            let certificate = certificate.ok_or("X509 parse pubkey fails")?;
            Ok(Key {
                id,
                algorithm: String::new(),
                material: Material::RsaOfCertificate(certificate.public_key),
            })
        });
        keys.collect::<Result<_, _>>().map(Jwks)
    }

    /// Checks the signature of a token.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Status> {
        let mut fits = false;
        for key in &self.0 {
            let other_id = !token.key_id.is_empty() && !key.id.is_empty() && key.id != token.key_id;
            let other_algorithm = !key.algorithm.is_empty() && key.algorithm != token.algorithm;
            if other_id || other_algorithm {
                continue;
            }
            fits = true;
            if matches!(key.material, Material::Ed25519(_)) && token.signature.len() != 64 {
                return Err(Status::ED25519_SIGNATURE_LENGTH);
            }
            if key.material.verifies(token) {
                return Ok(());
            }
        }
        Err(match fits {
            true => Status::VERIFICATION_FAILED,
            false => Status::NO_MATCHING_KEY,
        })
    }
}

impl Key {
    fn parse(fields: &Struct) -> Result<Key, &'static str> {
        let kind = match text_of(fields, "kty") {
            Ok(Some(kind)) => kind,
            Ok(None) => return Err("[kty] is missing in [keys]"),
            Err(_) => return Err("[kty] is bad in [keys]"),
        };
        let optional = |name| text_of(fields, name).ok().flatten().unwrap_or_default();
        let algorithm = optional("alg");
        let material = match kind {
            "EC" => elliptic_curve(fields, algorithm)?,
            "RSA" => rsa(fields, algorithm)?,
            "oct" => symmetric(fields, algorithm)?,
            "OKP" => edwards_curve(fields, algorithm)?,
            _ => return Err("[kty] is not supported in [keys]"),
        };
        Ok(Key {
            id: optional("kid").to_owned(),
            algorithm: algorithm.to_owned(),
            material,
        })
    }
}

/// A text that a key must have, decoded.
fn bytes(
    fields: &Struct,
    name: &str,
    missing: &'static str,
    invalid: &'static str,
) -> Result<Vec<u8>, &'static str> {
    let text = text_of(fields, name).ok().flatten().ok_or(missing)?;
    decode(text).ok_or(invalid)
}

fn rsa(fields: &Struct, algorithm: &str) -> Result<Material, &'static str> {
    const INVALID: &str = "Jwks RSA [n] or [e] field is missing or has a parse error";
    if !algorithm.is_empty() && !algorithm.starts_with("RS") && !algorithm.starts_with("PS") {
        return Err("[alg] is not started with [RS] or [PS] for an RSA key");
    }
    let modulus = bytes(fields, "n", "[n] field is missing for a RSA key", INVALID)?;
    let exponent = bytes(fields, "e", "[e] field is missing for a RSA key", INVALID)?;
    let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
    let bits = modulus.len() * 8
        - modulus
            .first()
            .map_or(0, |byte| byte.leading_zeros() as usize);
    let is_odd = modulus.last().is_some_and(|byte| byte % 2 == 1);
    // As in Envoy, no other sizes and exponents are accepted.
    if !(512..=16384).contains(&bits) || !is_odd || ![&[3][..], &[1, 0, 1]].contains(&exponent) {
        return Err(INVALID);
    }
    Ok(Material::Rsa {
        modulus: modulus.to_vec(),
        exponent: exponent.to_vec(),
    })
}

fn elliptic_curve(fields: &Struct, algorithm: &str) -> Result<Material, &'static str> {
    if !algorithm.is_empty() && !algorithm.starts_with("ES") {
        return Err("[alg] is not started with [ES] for an EC key");
    }
    let named = text_of(fields, "crv").map_err(|_| "[crv] field is not string for an EC key")?;
    let of_algorithm = match algorithm {
        "ES256" => Some(Curve::P256),
        "ES384" => Some(Curve::P384),
        "ES512" => Some(Curve::P521),
        _ => None,
    };
    let of_name = match named.unwrap_or_default() {
        "P-256" => Some(Curve::P256),
        "P-384" => Some(Curve::P384),
        "P-521" => Some(Curve::P521),
        _ => None,
    };
    let named = named.filter(|name| !name.is_empty());
    let curve = match (algorithm.is_empty(), named.is_some()) {
        (true, false) => Curve::P256,
        (false, true) if of_algorithm.is_none() || of_algorithm != of_name => {
            return Err("[crv] field specified is not compatible with [alg] for an EC key");
        }
        _ => {
            let unsupported = "[crv] or [alg] field is not supported for an EC key";
            of_algorithm.or(of_name).ok_or(unsupported)?
        }
    };
    const INVALID: &str = "Jwks EC [x] or [y] field is an invalid Base64.";
    let x = bytes(fields, "x", "[x] field is missing for an EC key", INVALID)?;
    let y = bytes(fields, "y", "[y] field is missing for an EC key", INVALID)?;
    let mut point = vec![4]; // uncompressed
    for coordinate in [x, y] {
        let coordinate = without_zeros(&coordinate);
        let padding = curve.coordinate_length().checked_sub(coordinate.len());
        let padding = padding.ok_or("Jwks EC [x] and [y] fields have a parse error.")?;
        point.extend(std::iter::repeat_n(0, padding));
        point.extend_from_slice(coordinate);
    }
    if ParsedPublicKey::new(curve.usual_algorithm(), &point).is_err() {
        return Err("Jwks EC [x] and [y] fields have a parse error.");
    }
    Ok(Material::Ec { curve, point })
}

fn symmetric(fields: &Struct, algorithm: &str) -> Result<Material, &'static str> {
    if !["", "HS256", "HS384", "HS512"].contains(&algorithm) {
        return Err("[alg] does not start with [HS] for an HMAC key");
    }
    const INVALID: &str = "Jwks Oct key is an invalid Base64";
    let key = bytes(fields, "k", "[k] field is missing for an HMAC key", INVALID)?;
    match key.is_empty() {
        true => Err(INVALID),
        false => Ok(Material::Hmac(key)),
    }
}

fn edwards_curve(fields: &Struct, algorithm: &str) -> Result<Material, &'static str> {
    if !["", "EdDSA"].contains(&algorithm) {
        return Err("[alg] is not [EdDSA] for an OKP key");
    }
    match text_of(fields, "crv") {
        Ok(Some("Ed25519")) => {}
        Ok(Some(_)) => return Err("[crv] field is not supported for an OKP key"),
        Ok(None) => return Err("[crv] field is missing for an OKP key"),
        Err(_) => return Err("[crv] field is not string for an OKP key"),
    }
    const INVALID: &str = "Jwks OKP [x] field is an invalid Base64.";
    let key = bytes(fields, "x", "[x] field is missing for an OKP key", INVALID)?;
    match key.len() {
        32 => Ok(Material::Ed25519(key)),
        _ => Err("Jwks OKP [x] field is wrong length."),
    }
}

impl Curve {
    fn coordinate_length(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    fn usual_algorithm(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

impl Material {
    /// Whether the token's signature is by this key.
    fn verifies(&self, token: &Token) -> bool {
        let (message, signed) = (token.signed.as_bytes(), &token.signature);
        let verified = match self {
            Material::Rsa { modulus, exponent } => {
                let Some(algorithm) = rsa_algorithm(&token.algorithm) else {
                    return false;
                };
                let key = RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                };
                key.verify(algorithm, message, signed)
            }
            Material::RsaOfCertificate(key) => {
                let Some(algorithm) = rsa_algorithm(&token.algorithm) else {
                    return false;
                };
                UnparsedPublicKey::new(algorithm, key).verify(message, signed)
            }
            Material::Ec { curve, point } => {
                let algorithm = match (token.algorithm.as_str(), curve) {
                    ("ES384", Curve::P384) | ("ES512", Curve::P521) => curve.usual_algorithm(),
                    ("ES384" | "ES512", _) | (_, Curve::P384 | Curve::P521) => return false,
                    (_, Curve::P256) => curve.usual_algorithm(),
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signed)
            }
            Material::Hmac(key) => {
                let algorithm = match token.algorithm.as_str() {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::verify(&hmac::Key::new(algorithm, key), message, signed)
            }
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signed)
            }
        };
        verified.is_ok()
    }
}

fn rsa_algorithm(name: &str) -> Option<&'static RsaParameters> {
    Some(match name {
        "RS256" => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0);
    number
        .get(start.unwrap_or(number.len())..)
        .unwrap_or_default()
}
