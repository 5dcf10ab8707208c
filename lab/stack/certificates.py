"""A certificate authority of a cluster's own, and the certificates of its servers and clients."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# What the servers' certificate is for, whatever address they are reached at.
SERVER_NAME = "servers.keyturn.internal"
VALID_FOR = timedelta(days=7)  # of a cluster that lives for hours


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """The files of the authority's certificate, and of the pairs that it signed."""

    authority: Path
    server: Pair
    client: Pair


def write_certificates(folder: Path, addresses: Sequence[str]) -> Certificates:
    """Write an authority and its two pairs to `folder`, the server's for SERVER_NAME and IP `addresses`."""
    folder.mkdir(mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Keyturn's cluster")])
    authority = (
        _unsigned(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "authority.pem"
    file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    names = [x509.DNSName(SERVER_NAME), *(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses)]
    return Certificates(
        file,
        _pair(folder, "server", names, name, key),
        _pair(folder, "client", [x509.DNSName("client.keyturn.internal")], name, key),
    )


def _pair(
    folder: Path, role: str, names: list[x509.GeneralName], issuer: x509.Name, authority: ec.EllipticCurvePrivateKey
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)])
    # The servers are each other's clients, too.
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if role == "server" else [])
    certificate = (
        _unsigned(subject, issuer, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(authority, hashes.SHA256())
    )
    pair = Pair(folder / f"{role}.pem", folder / f"{role}.key")
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pair.key.touch(mode=0o600)
    pair.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pair


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + VALID_FOR)
    )
