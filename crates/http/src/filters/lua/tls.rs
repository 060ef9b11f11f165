//! The SSL connection object: what is known of the client's TLS.

use std::rc::Rc;

use mlua::UserData;
use mlua::UserDataMethods;
use outrider_net::PeerCertificate;
use outrider_net::TlsInfo;

use crate::format::url_encoded_pem;

use super::handle::add_logs;
use super::machine::fail;
use super::run::Run;
use super::run::Scoped;

pub(super) struct SslConnection {
    scope: Scoped,
    tls: Rc<TlsInfo>,
}

impl SslConnection {
    /// The object for the connection of a run; `None` if it is not encrypted.
    pub(super) fn of(run: &Rc<Run>) -> mlua::Result<Option<SslConnection>> {
        let live = run.live.borrow();
        let tls = live.stream.connection.tls.clone();
        Ok(tls.map(|tls| SslConnection {
            scope: Scoped::new(run),
            tls,
        }))
    }

    fn peer(&self) -> Option<&PeerCertificate> {
        self.tls.peer.as_deref()
    }
}

/// What a method tells about a connection.
type Text = fn(&SslConnection) -> Option<String>;
type List = fn(&SslConnection) -> Option<&[String]>;

const TEXTS: &[(&str, Text)] = &[
    ("sha256PeerCertificateDigest", |c| Some(c.peer()?.sha256())),
    ("serialNumberPeerCertificate", |c| {
        Some(c.peer()?.serial.clone())
    }),
    ("issuerPeerCertificate", |c| Some(c.peer()?.issuer.clone())),
    ("subjectPeerCertificate", |c| {
        Some(c.peer()?.subject.clone())
    }),
    ("subjectLocalCertificate", |c| {
        Some(c.tls.local.as_ref()?.subject.clone())
    }),
    ("urlEncodedPemEncodedPeerCertificate", |c| {
        Some(url_encoded_pem(c.peer()?))
    }),
    ("urlEncodedPemEncodedPeerCertificateChain", |c| {
        let chain = c.tls.peer_chain.iter();
        let chain = chain.filter_map(|der| PeerCertificate::parse(der));
        Some(
            chain
                .map(|certificate| url_encoded_pem(&certificate))
                .collect(),
        )
    }),
    ("ciphersuiteString", |c| Some(c.tls.cipher.to_owned())),
    ("tlsVersion", |c| Some(c.tls.version.to_owned())),
];

const LISTS: &[(&str, List)] = &[
    ("uriSanPeerCertificate", |c| Some(&c.peer()?.uris)),
    ("dnsSansPeerCertificate", |c| Some(&c.peer()?.dns_names)),
    ("uriSanLocalCertificate", |c| {
        Some(&c.tls.local.as_ref()?.uris)
    }),
    ("dnsSansLocalCertificate", |c| {
        Some(&c.tls.local.as_ref()?.dns_names)
    }),
];

const UNSUPPORTED: &[&str] = &[
    "ciphersuiteId",
    "oidsLocalCertificate",
    "oidsPeerCertificate",
    "parsedSubjectPeerCertificate",
    "sessionId",
];

impl UserData for SslConnection {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        for (name, text) in TEXTS {
            methods.add_method(*name, |lua, this, ()| {
                this.scope.enter(lua)?;
                Ok(text(this).unwrap_or_default())
            });
        }
        for (name, list) in LISTS {
            methods.add_method(*name, |lua, this, ()| {
                this.scope.enter(lua)?;
                lua.create_sequence_from(list(this).unwrap_or_default().iter().cloned())
            });
        }
        methods.add_method("peerCertificatePresented", |lua, this, ()| {
            this.scope.enter(lua)?;
            Ok(this.tls.peer.is_some())
        });
        methods.add_method("peerCertificateValidated", |lua, this, ()| {
            this.scope.enter(lua)?;
            Ok(this.tls.validated)
        });
        methods.add_method("validFromPeerCertificate", |lua, this, ()| {
            this.scope.enter(lua)?;
            Ok(this.peer().map_or(0, |peer| peer.not_before))
        });
        methods.add_method("expirationPeerCertificate", |lua, this, ()| {
            this.scope.enter(lua)?;
            Ok(this.peer().map_or(0, |peer| peer.not_after))
        });
        for name in UNSUPPORTED {
            methods.add_method(*name, move |lua, this, ()| {
                this.scope.enter(lua)?;
                Err::<(), _>(fail(lua, format!("{name}() is not supported")))
            });
        }
    }
}
