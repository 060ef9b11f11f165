//! `TlsCertificate.private_key`, with `password` if it is encrypted.

use std::fmt;
use std::sync::Arc;

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::SecretDocument;
use rustls::SignatureAlgorithm;
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::Signer;
use rustls::sign::SigningKey;

/// Reads a private key from PEM. The error says why it cannot be used.
pub(crate) fn read(
    pem: &[u8],
    password: Option<&[u8]>,
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, String> {
    let key = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(_) if is_encrypted_by_openssl(pem) => {
            return Err("the encryption of OpenSSL's older format is not supported; convert the key with `openssl pkcs8 -topk8`".to_owned());
        }
        Ok(key) => key,
        Err(_) => decrypt(pem, password)?,
    };
    let key = provider.key_provider.load_private_key(key);
    key.map_err(|error| error.to_string())
}

/// Whether the key has the headers of PEM encryption (RFC 1421), which OpenSSL wrote before PKCS#8.
fn is_encrypted_by_openssl(pem: &[u8]) -> bool {
    let mut lines = pem.split(|byte| *byte == b'\n');
    lines.any(|line| line.starts_with(b"Proc-Type:"))
}

/// Decrypts a key in PKCS#8 (RFC 5958, with PBES2).
fn decrypt(pem: &[u8], password: Option<&[u8]>) -> Result<PrivateKeyDer<'static>, String> {
    const LABEL: &str = "ENCRYPTED PRIVATE KEY";
    let begin = format!("-----BEGIN {LABEL}-----");
    let text = std::str::from_utf8(pem).unwrap_or_default();
    let Some(start) = text.find(&begin) else {
        return Err("there is no private key in PEM".to_owned());
    };
    let Some(password) = password else {
        return Err("it is encrypted, and there is no password".to_owned());
    };
    let end = format!("-----END {LABEL}-----");
    let text = text.get(start..).unwrap_or_default();
    let length = text.find(&end).map_or(text.len(), |at| at + end.len());
    let document = SecretDocument::from_pem(text.get(..length).unwrap_or_default());
    let (_, document) = document.map_err(|error| error.to_string())?;
    let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
    let info = info.map_err(|error| error.to_string())?;
    let key = info.decrypt(password);
    let key = key.map_err(|_| "the password does not fit".to_owned())?;
    let key = PrivatePkcs8KeyDer::from(key.as_bytes().to_vec());
    Ok(PrivateKeyDer::from(key))
}

/// A key that signs with some schemes only, by the order of the config (`signature_algorithms`).
pub(crate) struct RestrictedKey {
    pub(crate) key: Arc<dyn SigningKey>,
    pub(crate) schemes: Arc<[SignatureScheme]>,
}

impl SigningKey for RestrictedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut schemes = self.schemes.iter().filter(|one| offered.contains(one));
        schemes.find_map(|scheme| self.key.choose_scheme(&[*scheme]))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl fmt::Debug for RestrictedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestrictedKey")
            .field("schemes", &self.schemes)
            .finish_non_exhaustive()
    }
}
