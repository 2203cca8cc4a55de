"""The certificates that a listener shows and asks for, read from their files.

The rule of this file: certificates that cannot be used are told before anything listens with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tickflight_server.config import TlsSettings
from tickflight_server.errors import ConfigError
from tickflight_server.identity.secret_files import Stamp, read_secret, stamp


@dataclass(frozen=True)
class Certificates:
    """What is in the files: a certificate and its key, and the authority of clients, None if they need none."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def options(self, *, ask_clients: bool) -> dict[str, Any]:
        """Return how ``FlightServerBase`` is told; with ``ask_clients``, clients must have a certificate."""
        options: dict[str, Any] = {"tls_certificates": [(self.certificate, self.key)]}
        if ask_clients:
            options |= {"verify_client": True, "root_certificates": self.client_ca}
        return options


def read_certificates(settings: TlsSettings) -> Certificates:
    """Return what the files hold.

    Raises:
        ConfigError: one cannot be read or is none, others may read the key, or it is another certificate's.
    """
    certificate = read_secret(settings.cert_file, private=False)
    key = read_secret(settings.key_file)
    client_ca = None if settings.client_ca_file is None else read_secret(settings.client_ca_file, private=False)
    public = _certificate(settings.cert_file, certificate).public_key()
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise ConfigError(
            f"{settings.key_file} holds no private key.", hint="It is PEM, and has no password."
        ) from None
    if _raw(private.public_key()) != _raw(public):
        raise ConfigError(f"{settings.key_file} is not the key of {settings.cert_file}.", hint="Make both anew.")
    if client_ca is not None:
        assert settings.client_ca_file is not None
        _certificate(settings.client_ca_file, client_ca)
    return Certificates(certificate, key, client_ca)


def stamps(settings: TlsSettings) -> tuple[Stamp, ...]:
    """Return what changes when one of the files does."""
    files = (settings.cert_file, settings.key_file, settings.client_ca_file)
    return tuple(stamp(file) for file in files if file is not None)


def _certificate(path: Path, data: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise ConfigError(f"{path} holds no certificate.", hint="It is PEM: -----BEGIN CERTIFICATE-----.") from None


def _raw(key: Any) -> bytes:
    raw: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return raw
