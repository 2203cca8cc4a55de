"""The keys that JSON Web Tokens are checked with: one of a file, or a JWK Set from a file or a URL.

The rule of this file: a key is fetched at most so often, whatever tokens ask for; while none can be had, those that
were there stay good.
"""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

import jwt
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tickflight_server.clock import Clock
from tickflight_server.config import JwtSettings
from tickflight_server.errors import AuthenticationError, BusyError, ConfigError
from tickflight_server.identity.secret_files import read_secret, stamp
from tickflight_server.metrics import Metrics
from tickflight_server.redact import learn

LOG = structlog.get_logger(__name__)
SET_BYTES_MAX = 1 << 20
SET_KEYS_MAX = 100
SECRET_BYTES_MIN = 32


class FileKey:
    """A public key or a secret, in a file or in the configuration; ``generation`` counts its changes.

    Raises:
        ConfigError: there is none, or it is none.
    """

    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._path = settings.key_file or settings.secret_file
        self.generation = 0
        self._stamp = None if self._path is None else stamp(self._path)
        self._key = self._load()

    def _load(self) -> Any:
        if self._settings.secret is not None:
            return self._settings.secret.get_secret_value().encode()
        assert self._path is not None
        data = read_secret(self._path, private=self._settings.symmetric)
        if self._settings.symmetric:
            secret = data.strip()
            if len(secret) < SECRET_BYTES_MIN:
                raise ConfigError(f"the secret in {self._path} has less than {SECRET_BYTES_MIN} bytes.")
            learn([secret.decode(errors="replace")])
            return secret
        try:
            if b"-----BEGIN CERTIFICATE-----" in data:
                return x509.load_pem_x509_certificate(data).public_key()
            return load_pem_public_key(data)
        except (ValueError, TypeError):
            raise ConfigError(
                f"{self._path} holds no public key.", hint="It begins with -----BEGIN PUBLIC KEY-----."
            ) from None

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be used changes nothing."""
        found = None if self._path is None else stamp(self._path)
        if found == self._stamp:
            return
        self._stamp = found
        try:
            self._key = self._load()
            self.generation += 1
        except ConfigError as error:
            LOG.error("jwt.key_refused", error=str(error))

    def find(self, header: Mapping[str, Any]) -> Any:
        """Return the key for a token's header."""
        return self._key


class KeySet:
    """A JWK Set from a file or a URL; ``generation`` counts its changes."""

    def __init__(self, settings: JwtSettings, clock: Clock, metrics: Metrics) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._path = settings.jwks_file
        self._stamp = None if self._path is None else stamp(self._path)
        self._lock = threading.Lock()
        self._fetched = -1e9  # monotonic, of the last try
        self._background: threading.Thread | None = None
        self.generation = 0
        self._keys: dict[str, dict[str, Any]] = {}
        if self._path is not None:
            self._keys = _parse(read_secret(self._path, private=False))

    def refresh(self) -> None:
        """Read the file again if it has changed; ask a URL again, in the background, when its time has come."""
        if self._path is not None:
            found = stamp(self._path)
            if found == self._stamp:
                return
            self._stamp = found
            try:
                self._replace(_parse(read_secret(self._path, private=False)))
            except ConfigError as error:
                LOG.error("jwt.key_refused", error=str(error))
            return
        due = self._clock.monotonic() - self._fetched > self._settings.refresh_s
        if due and (self._background is None or not self._background.is_alive()):
            self._background = threading.Thread(target=self._fetch_once, name="jwks", daemon=True)
            self._background.start()

    def _replace(self, keys: dict[str, dict[str, Any]]) -> None:
        if keys != self._keys:
            self._keys = keys
            self.generation += 1

    def find(self, header: Mapping[str, Any]) -> Any:
        """Return the key that a token's header names.

        Raises:
            AuthenticationError: there is no such key.
            BusyError: the keys could not be had.
        """
        found = self._among(header)
        if found is None and self._settings.jwks_url is not None:
            self._fetch_once()
            found = self._among(header)
        if found is not None:
            return found
        if not self._keys:
            self._metrics.add("jwt_keys_missing")
            raise BusyError("the keys of the tokens' issuer cannot be had.", hint="Try again in a while.")
        raise AuthenticationError(
            "the token is signed with a key that the issuer does not have.", hint="Get a new one."
        )

    def _among(self, header: Mapping[str, Any]) -> jwt.PyJWK | None:
        kid, keys = header.get("kid"), self._keys
        if isinstance(kid, str):
            row = keys.get(kid)
        else:  # a set of one key needs no names
            row = next(iter(keys.values())) if kid is None and len(keys) == 1 else None
        if row is None:
            return None
        try:
            return jwt.PyJWK(row, None if "alg" in row else str(header.get("alg")))
        except jwt.PyJWTError:
            return None

    def _fetch_once(self) -> None:
        """Fetch the keys, unless somebody just has; the last ones stay if that fails."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._fetched < self._settings.refresh_min_s:
                return
            self._fetched = now
            self._metrics.add("jwks_fetches")
            try:
                assert self._settings.jwks_url is not None
                self._replace(_parse(_fetch(self._settings.jwks_url, self._settings.timeout_s)))
            except (OSError, http.client.HTTPException, ConfigError) as error:
                self._metrics.add("jwks_failures")
                LOG.error("jwt.keys_not_fetched", error=str(error) or type(error).__name__)


def _parse(data: bytes) -> dict[str, dict[str, Any]]:
    """Return the keys for signatures in a JWK Set, by their ids; secrets in it are left out.

    Raises:
        ConfigError: it is none.
    """
    try:
        rows = json.loads(data)["keys"]
        keys = [row for row in rows[:SET_KEYS_MAX] if row["kty"] != "oct" and row.get("use", "sig") == "sig"]
        return {str(row.get("kid", f"#{number}")): row for number, row in enumerate(keys)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError("the issuer's keys are no JWK Set.", hint="Check auth.jwt.jwks_file or jwks_url.") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes no redirect: the address was checked, another one was not."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(url: str, timeout_s: float) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - the settings check it
    with opener.open(request, timeout=timeout_s) as answer:
        data: bytes = answer.read(SET_BYTES_MAX + 1)
    if len(data) > SET_BYTES_MAX:
        raise ConfigError(f"the issuer's keys have more than {SET_BYTES_MAX >> 20} MiB.")
    return data
