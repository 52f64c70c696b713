"""Certificates for the guard's tests: two roots, an issuing certificate under each, leaves, CRLs."""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def replace(path, data):
    """The way certificate files are written for a running Dask: whole, by rename."""
    with open(f"{path}.new", "wb") as file:
        file.write(data)
    os.replace(f"{path}.new", path)
    return str(path)


def pem(*things):
    out = b""
    for thing in things:
        if isinstance(thing, ec.EllipticCurvePrivateKey):
            out += thing.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        else:
            out += thing.public_bytes(serialization.Encoding.PEM)
    return out


class Authority:
    """A root, or with a parent an issuing certificate of path length 0."""

    def __init__(self, name, parent=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.parent, self.crls = parent, 0
        signer = parent or self
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = dict.fromkeys(
            "digital_signature content_commitment key_encipherment data_encipherment"
            " key_agreement encipher_only decipher_only".split(),
            False,
        )
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(parent.certificate.subject if parent else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - datetime.timedelta(minutes=5))
            .not_valid_after(now() + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(True, 0 if parent else None), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(signer.key, hashes.SHA256())
        )

    def issue(self, name, life=3600, usages=(SERVER, CLIENT), since=-300):
        """A leaf; valid from `since` to `life` seconds from now."""
        return Leaf(self, name, life, usages, since)

    def crl(self, revoked=(), life=3600, since=-600):
        """Newer than the one before, as the hub makes them: OpenSSL keeps the older of two of one second."""
        self.crls += 1
        since += self.crls
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now() + datetime.timedelta(seconds=since))
            .next_update(now() + datetime.timedelta(seconds=life))
        )
        for leaf in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(leaf.serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(now()).build())
        return pem(builder.sign(self.key, hashes.SHA256()))


class Leaf:
    def __init__(self, issuer, name, life, usages, since):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() + datetime.timedelta(seconds=since))
            .not_valid_after(now() + datetime.timedelta(seconds=life))
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
                critical=False,
            )
            .sign(issuer.key, hashes.SHA256())
        )
        self.serial = self.certificate.serial_number
        chain = [issuer.certificate] if issuer.parent else []
        self.chain = pem(self.certificate, *chain)
        self.bundle = pem(self.key) + self.chain  # key and chain in one file


class Pki:
    """As on a herdsman cluster: scheduler and nodes have roots of their own, all trust both."""

    def __init__(self, folder):
        self.folder = folder
        self.sched_root, self.node_root = Authority("R_sched"), Authority("R_node")
        self.sched = Authority("I_sched", self.sched_root)
        self.node = Authority("I_node", self.node_root)
        roots = pem(self.sched_root.certificate, self.node_root.certificate)
        self.ca = replace(folder / "ca.pem", roots)

    def write(self, name, leaf):
        return replace(self.folder / f"{name}.pem", leaf.bundle)

    def client(self, name="client", **kwargs):
        """A client's leaf and its file."""
        leaf = self.node.issue(name, usages=(CLIENT,), **kwargs)
        return leaf, self.write(f"{name}-{leaf.serial:x}", leaf)

    def crl(self, revoked=(), **kwargs):
        """A bundle of both issuers' CRLs; the leaves named are revoked by the nodes' issuer."""
        return self.node.crl(revoked, **kwargs) + self.sched.crl(**kwargs)
