"""Certificates for development: an authority, a server's pair, and clients' pairs.

    ca.pem, ca.key                 the authority; clients trust ca.pem
    server.pem, server.key         flight.tls.cert_file and key_file
    <name>.pem, <name>.key         a client's

The rule of this file: keys are made with mode 0600 and never replaced by something that others may read.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tickflight_server.errors import ConfigError
from tickflight_server.identity.secret_files import changing, read_secret, write_secret

_OWN = ("ca", "server")
_BACKDATED = timedelta(hours=1)  # clocks differ


def make_certificates(folder: Path, hosts: Sequence[str], clients: Sequence[str], days: int) -> list[Path]:
    """Make the files; return those that were written.

    Raises:
        ConfigError: a name cannot be a file's, or the files cannot be written.
    """
    for name in clients:
        if name in _OWN or Path(name).name != name or name.startswith("."):
            raise ConfigError(f"{name!r} cannot be the name of a client's files.", hint="Take another one.")
    written: list[Path] = []
    with changing(folder / "ca.key"):
        authority, key = _authority(folder, days, written)
        names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts]
        server = [_general(name) for name in dict.fromkeys(names)]
        _issue(folder, "server", server, ExtendedKeyUsageOID.SERVER_AUTH, authority, key, days, written)
        for name in clients:
            # the name is the subject's; without an alternative one it is what the server asks for
            _issue(folder, name, [], ExtendedKeyUsageOID.CLIENT_AUTH, authority, key, days, written)
    return written


def _authority(folder: Path, days: int, written: list[Path]) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if (folder / "ca.key").exists():
        try:
            key = serialization.load_pem_private_key(read_secret(folder / "ca.key"), None)
            certificate = x509.load_pem_x509_certificate(read_secret(folder / "ca.pem", private=False))
        except ValueError:
            raise ConfigError(f"{folder} holds no authority.", hint="Remove ca.key and ca.pem.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{folder / 'ca.key'} is not this program's.", hint="Name another folder.")
        return certificate, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("tickflight development authority")
    certificate = (
        _builder(name, name, key, max(days, 3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, "ca", certificate, key, written)
    return certificate, key


def _issue(
    folder: Path,
    name: str,
    alternatives: list[x509.GeneralName],
    use: x509.ObjectIdentifier,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
    written: list[Path],
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(name), authority.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    _write(folder, name, builder.sign(authority_key, hashes.SHA256()), key, written)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    except ValueError:
        raise ConfigError(f"{text!r} cannot be a certificate's name.", hint="It has at most 64 characters.") from None


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise ConfigError(f"{name!r} is neither a host's name nor an address.", hint="Write it in ASCII.") from None


def _write(
    folder: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    written: list[Path],
) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # the key first: whoever waits for the certificate finds both
    for path, data, mode in (
        (folder / f"{name}.key", private, 0o600),
        (folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644),
    ):
        write_secret(path, data, mode)
        written.append(path)
