//! What a verifier found, for the connection whose handshake it was asked in.
//!
//! One verifier serves the connections of all workers, and `rustls` tells a connection nothing but an error. A handshake
//! runs on its worker's thread from message to message, so the verifier leaves its findings there, and the connection
//! takes them when `rustls` returns.

use std::cell::Cell;
use std::sync::Arc;

use rustls::SignatureScheme;

use crate::failure::VerifyFailure;
use crate::peer::PeerCertificate;

/// What a verifier found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Why the peer's certificate was refused.
    pub failure: Option<VerifyFailure>,
    /// The peer's certificate was checked against a trusted CA.
    pub validated: bool,
    /// How the peer signed.
    pub scheme: Option<SignatureScheme>,
    /// The certificate that this side chose.
    pub certificate: Option<Arc<PeerCertificate>>,
}

thread_local! {
    static REPORT: Cell<Report> = Cell::default();
}

/// Takes what was found since the last call on this thread.
#[must_use]
pub fn take_report() -> Report {
    REPORT.take()
}

pub(crate) fn update(change: impl FnOnce(&mut Report)) {
    let mut report = REPORT.take();
    change(&mut report);
    REPORT.set(report);
}
