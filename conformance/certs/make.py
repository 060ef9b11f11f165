"""Makes the certificates of the TLS cases. They are committed, so that what is recorded of them (serials, digests) stays the same.

`python3 conformance/certs/make.py` writes all of them again, `make.py more` only those of `more`, which the others have signed; needs the
package `cryptography`.
"""
import datetime
import ipaddress
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = Path(__file__).parent
START, END = datetime.datetime(2024, 1, 1), datetime.datetime(2123, 12, 31)
USER = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def name(common: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Outrider, Tests"),
                      x509.NameAttribute(NameOID.COMMON_NAME, common)])


def sans(names: list) -> x509.SubjectAlternativeName:
    """`dns=…`, `uri=…`, `mail=…`, `ip=…` or `user=…` (a principal name, which is of another kind)."""
    made = []
    for one in names:
        kind, _, value = one.partition("=")
        made.append({"uri": x509.UniformResourceIdentifier, "mail": x509.RFC822Name, "ip": lambda v: x509.IPAddress(ipaddress.ip_address(v)),
                     "dns": x509.DNSName, "user": lambda v: x509.OtherName(USER, b"\x0c" + bytes([len(v)]) + v.encode())}[kind](value))
    return x509.SubjectAlternativeName(made)


class Pair:
    """A certificate and its key, in two files."""

    serial = 0x1000

    def __init__(self, file: str, issuer=None, names=(), ca=False, key=None, end=END, start=START, usages=USAGES, chain=()):
        Pair.serial += 1
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = name(file)
        signer, by = (issuer.key, issuer.subject) if issuer else (self.key, self.subject)
        builder = (x509.CertificateBuilder().subject_name(self.subject).issuer_name(by).public_key(self.key.public_key())
                   .serial_number(Pair.serial).not_valid_before(start).not_valid_after(end)
                   .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False))
        usage = dict.fromkeys(["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"], False)
        builder = builder.add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage), critical=True)
        if names:
            builder = builder.add_extension(sans(list(names)), critical=False)
        if not ca and usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        self.cert = builder.sign(signer, hashes.SHA256())
        pem = serialization.Encoding.PEM
        certs = b"".join(one.public_bytes(pem) for one in [self.cert, *(c.cert for c in chain)])
        (HERE / f"{file}.pem").write_bytes(certs)
        (HERE / f"{file}.key").write_bytes(self.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


class Read:
    """A certificate that exists, to sign others."""

    def __init__(self, file: str):
        self.cert = x509.load_pem_x509_certificates((HERE / f"{file}.pem").read_bytes())[0]
        self.key = serialization.load_pem_private_key((HERE / f"{file}.key").read_bytes(), None)
        self.subject = self.cert.subject


def more() -> None:
    """A certificate with names of all kinds, an encrypted key, the revocation list of the inner CA, which is empty, and OCSP responses."""
    Pair.serial = 0x2000
    Pair("named", Read("ca"), ["user=user@test", "mail=named@named.test", "ip=192.0.2.1", "ip=2001:db8::1", "dns=named.test"])
    encryption = serialization.BestAvailableEncryption(b"outrider")
    key = Read("server").key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    (HERE / "encrypted.key").write_bytes(key)
    revocations("inner-ca", Read("inner-ca"), [])
    staple("server", END)
    staple("server", datetime.datetime(2024, 2, 1), "old-")
    staple("second", datetime.datetime(2024, 2, 1), "old-")


def staple(file: str, end, prefix="") -> None:
    """An OCSP response for a certificate of the CA, valid until `end`."""
    ca = Read("ca")
    builder = ocsp.OCSPResponseBuilder().add_response(Read(file).cert, ca.cert, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, START, end, None, None)
    response = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, ca.cert).sign(ca.key, hashes.SHA256())
    (HERE / f"{prefix}{file}.ocsp").write_bytes(response.public_bytes(serialization.Encoding.DER))


def revocations(file: str, ca, revoked: list) -> None:
    """A revocation list."""
    crl = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).last_update(START).next_update(END)
    for one in revoked:
        crl = crl.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(one.cert.serial_number).revocation_date(START).build())
    crl = crl.add_extension(x509.CRLNumber(1), False)
    crl = crl.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), False)
    (HERE / f"{file}.crl").write_bytes(crl.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def main() -> None:
    """All of them."""
    ca = Pair("ca", ca=True)
    other_ca = Pair("other-ca", ca=True)
    inner = Pair("inner-ca", ca, ca=True)
    Pair("server", ca, ["dns=server.test", "dns=*.wild.test", "ip=127.0.0.1", "uri=spiffe://test/server"])
    Pair("rsa", ca, ["dns=server.test", "dns=rsa.test"], key=rsa.generate_private_key(65537, 2048))
    Pair("second", ca, ["dns=second.test"])
    Pair("client", ca, ["uri=spiffe://test/client", "dns=client.test", "dns=also.client.test", "mail=client@client.test"])
    Pair("plain", ca, [])
    Pair("deep", inner, ["dns=deep.test"], chain=[inner])
    Pair("expired", ca, ["dns=server.test"], end=datetime.datetime(2024, 2, 1))
    Pair("stranger", other_ca, ["dns=server.test", "uri=spiffe://other/client"])
    revoked = Pair("revoked", ca, ["dns=revoked.test"])
    Pair("only-server", ca, ["dns=server.test"], usages=[ExtendedKeyUsageOID.SERVER_AUTH])
    revocations("ca", ca, [revoked])
    more()


if __name__ == "__main__":
    more() if sys.argv[1:] == ["more"] else main()
