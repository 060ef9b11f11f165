//! Passes a verifier's findings to the connection whose handshake it was called in.
//!
//! One verifier serves the connections of all workers, and `rustls` returns only an error to a connection. Each call of
//! `rustls` runs on the connection's worker from start to end. So the verifier stores its findings in that thread, and
//! the connection takes them when `rustls` returns.

use std::cell::Cell;
use std::sync::Arc;

use rustls::SignatureScheme;

use crate::failure::VerifyFailure;
use crate::ocsp::Stapling;
use crate::peer::PeerCertificate;

/// The findings of a verifier.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Why the peer's certificate was refused.
    pub failure: Option<VerifyFailure>,
    /// Whether the peer's certificate was checked against a trusted CA.
    pub validated: bool,
    /// The peer's signature algorithm.
    pub scheme: Option<SignatureScheme>,
    /// The certificate that this proxy selected.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Whether the client asks for an OCSP response. The connection sets it before the certificate is selected.
    pub(crate) asks_for_staple: bool,
    /// Whether it got one.
    pub stapling: Stapling,
}

thread_local! {
    static REPORT: Cell<Report> = Cell::default();
}

/// Takes the findings since the last call on this thread.
#[must_use]
pub fn take_report() -> Report {
    REPORT.take()
}

/// Notes whether the client that is about to be answered on this thread asks for an OCSP response.
pub(crate) fn note_request_for_staple(asks: bool) {
    update(|report| report.asks_for_staple = asks);
}

/// Whether the client asks for an OCSP response.
pub(crate) fn asks_for_staple() -> bool {
    let report = REPORT.take();
    let asks = report.asks_for_staple;
    REPORT.set(report);
    asks
}

pub(crate) fn update(change: impl FnOnce(&mut Report)) {
    let mut report = REPORT.take();
    change(&mut report);
    REPORT.set(report);
}
