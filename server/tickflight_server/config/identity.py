"""Section ``auth`` and the TLS of section ``flight``: who may connect, and how they prove who they are.

The rule of this file: a secret is a SecretStr or the name of a file; what would let somebody in by mistake is refused
when the configuration is read.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from tickflight_server.config.section import Section

ANONYMOUS = "anonymous"
NAME_CHARS_MAX = 200
_SYMMETRIC = ("HS256", "HS384", "HS512")
_ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_SECRET_BYTES_MIN = 32
LOOPBACK = ("localhost", "::1")


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    return host in LOOPBACK or host.startswith("127.")


def check_name(name: str) -> str:
    """Return the name of a user or token.

    Raises:
        ValueError: nobody can have it: it cannot be sent or read, or means those without a name.
    """
    if not name or len(name) > NAME_CHARS_MAX:
        raise ValueError(f"a name has 1 to {NAME_CHARS_MAX} characters")
    if ":" in name or not name.isprintable() or name != name.strip():
        raise ValueError("a name has no colon, no character that cannot be seen, and no space at its ends")
    if name == ANONYMOUS:
        raise ValueError(f"{ANONYMOUS!r} is the name of those who say none")
    return name


class JwtSettings(Section):
    """JSON Web Tokens (RFC 7519) that others issue: with which key they are checked, and what they say."""

    key_file: Path | None = Field(None, description="public key or certificate of the issuer, PEM")
    jwks_file: Path | None = Field(None, description="public keys of the issuer, JWK Set; read again when it changes")
    jwks_url: str | None = Field(None, description="where the issuer has its public keys; https, or http on loopback")
    secret: SecretStr | None = Field(None, description="secret shared with the issuer (HS256 and the like)")
    secret_file: Path | None = Field(None, description="file with it")
    algorithms: list[str] = Field([], description="those taken; empty is RS256, ES256, EdDSA; HS256 of a secret")
    issuer: str | None = Field(None, description="what claim iss must be; needed with a JWK Set")
    audience: str | None = Field(None, description="what claim aud must hold; needed with a JWK Set")
    leeway_s: float = Field(30.0, ge=0, le=600, description="how far the clocks of issuer and server may be apart")
    user_claim: str = Field("sub", description="claim with the user's name; dots lead into objects")
    roles_claim: str = Field("roles", description="claim with the roles: a list, or names with spaces between")
    role_map: dict[str, list[str]] = Field({}, description="roles by a value of that claim; without it, they are names")
    refresh_s: float = Field(3600.0, ge=1, description="keys from a URL are asked for again after so long")
    refresh_min_s: float = Field(30.0, gt=0, description="and for an unknown key at most once in so long")
    timeout_s: float = Field(5.0, gt=0, le=60, description="longest wait for them")

    @field_validator("jwks_url")
    @classmethod
    def _safe_url(cls, value: str | None) -> str | None:
        if value is not None:
            url = urlsplit(value)
            if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
                raise ValueError("keys are fetched by https; by http only from this machine")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> JwtSettings:
        sources = (self.key_file, self.jwks_file, self.jwks_url, self.secret, self.secret_file)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("give one of key_file, jwks_file, jwks_url, secret, secret_file")
        # a public key is no secret: were HS256 taken with it, anybody could sign
        allowed = _SYMMETRIC if self.symmetric else _ASYMMETRIC
        for name in self.algorithms:
            if name not in allowed:
                raise ValueError(f"algorithm {name!r} does not go with this key: {', '.join(allowed)} do")
        if self.secret is not None and len(self.secret.get_secret_value().encode()) < _SECRET_BYTES_MIN:
            raise ValueError(f"the secret has less than {_SECRET_BYTES_MIN} bytes")
        shared = self.jwks_file is not None or self.jwks_url is not None
        if shared and (self.issuer is None or self.audience is None):
            raise ValueError("with a JWK Set, issuer and audience say which of its tokens are for this server")
        return self

    @property
    def symmetric(self) -> bool:
        """Whether the key is a shared secret."""
        return self.secret is not None or self.secret_file is not None

    @property
    def taken(self) -> list[str]:
        """The algorithms that are taken."""
        return self.algorithms or (["HS256"] if self.symmetric else ["RS256", "ES256", "EdDSA"])


class SubjectSettings(Section):
    """Who the bearers of some client certificates are."""

    pattern: str = Field(description="names of certificates, with ``*`` and ``?``")
    user: str | None = Field(None, description="the user; without it, the certificate's name is")
    roles: list[str] | None = Field(None, description="roles; without them, those of section auth")


class TlsSettings(Section):
    """Encryption, and certificates of clients. The files are read again when they change."""

    cert_file: Path = Field(description="the server's certificate and those between it and its authority, PEM")
    key_file: Path = Field(description="its private key, PEM; nobody else may read it")
    client_ca_file: Path | None = Field(None, description="authority of clients' certificates, which all need then")
    client_port: int | None = Field(
        None, ge=0, le=65_535, description="a second port that asks for them, in place of the first"
    )
    subjects: list[SubjectSettings] = Field([], description="users by their certificates; the first that fits counts")
    reload_s: float = Field(1.0, gt=0, description="how often it looks whether the files have changed")

    @model_validator(mode="after")
    def _together(self) -> TlsSettings:
        if self.client_ca_file is None and (self.subjects or self.client_port is not None):
            raise ValueError("subjects and client_port need a client_ca_file")
        return self


class AuthSettings(Section):
    """Who may connect, besides those of the users file. With nobody at all, anyone may: loopback only."""

    users: dict[str, SecretStr] = Field(default_factory=dict, description="password by user name")
    tokens: dict[str, SecretStr] = Field(default_factory=dict, description="long-lived bearer token by its name")
    users_file: Path | None = Field(None, description="users of `users add`; by default in the data folder")
    tokens_file: Path | None = Field(None, description="tokens of `tokens add`; by default in the data folder")
    jwt: JwtSettings | None = Field(None, description="JSON Web Tokens of another issuer")
    anonymous: bool | None = Field(
        None, description="whether calls without credentials are taken; by default only where nobody is configured"
    )
    roles: dict[str, list[str]] = Field(default_factory=dict, description="roles by the name of a user or token")
    default_roles: list[str] = Field(["user"], description="roles of a user or token that has none of its own")
    session_idle_s: float = Field(86_400.0, gt=0, description="a bearer token of a login ends after so long unused")
    session_max_s: float = Field(604_800.0, gt=0, description="and so long after the login at the latest")
    sessions_max: int = Field(10_000, ge=1, description="logins alive at once; the longest unused goes first")
    attempts_max: int = Field(10, ge=1, description="failed logins of a user in a window; then it waits")
    attempts_address_max: int = Field(50, ge=1, description="failed logins from an address in a window; then it waits")
    attempts_window_s: float = Field(300.0, gt=0, description="the window")
    attempts_trust_s: float = Field(
        86_400.0, ge=0, description="an address that a user logged in from counts apart for so long"
    )
    attempts_kept_max: int = Field(10_000, ge=10, description="users and addresses that failures are kept of")
    verify_concurrent_max: int = Field(2, ge=1, description="passwords checked at once; each takes 64 MiB")
    verify_queue_max: int = Field(64, ge=0, description="logins that wait for that; further ones are refused")
    password_cache_s: float = Field(
        300.0, ge=0, description="a password that was right is known again for so long without its hash"
    )

    @field_validator("users", "tokens")
    @classmethod
    def _not_empty(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            check_name(name)
            if not secret.get_secret_value():
                raise ValueError(f"the secret of {name!r} is empty")
        return value

    @property
    def somebody(self) -> bool:
        """Whether the configuration names anybody who may connect, or who says who may."""
        return bool(self.users or self.tokens or self.users_file or self.tokens_file or self.jwt)
