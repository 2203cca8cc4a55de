"""JSON Web Tokens of another issuer: whether one is good, whose it is, and until when.

The rule of this file: the algorithms are those of the settings, never the token's own choice; a token without an end is
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from tickflight_server.clock import Clock
from tickflight_server.config import JwtSettings, check_name
from tickflight_server.errors import AuthenticationError
from tickflight_server.identity.keys import FileKey, KeySet
from tickflight_server.metrics import Metrics

CHARS_MAX = 16_384
_HINT = "Get a new token from its issuer."
# the first that fits; PyJWT's own words may quote the token
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "the token has expired."),
    (jwt.ImmatureSignatureError, "the token is not valid yet."),
    (jwt.InvalidAudienceError, "the token is for another audience."),
    (jwt.InvalidIssuerError, "the token is of another issuer."),
    (jwt.MissingRequiredClaimError, "the token lacks a claim that is needed."),
    (jwt.InvalidSignatureError, "the token's signature is wrong."),
    (jwt.InvalidAlgorithmError, "the token's algorithm is not taken here."),
)


@dataclass(frozen=True)
class Bearer:
    """What a good token says. ``roles`` is None where it says none; ``expires_s`` is seconds since 1970, UTC."""

    user: str
    roles: tuple[str, ...] | None
    expires_s: float


class WebTokens:
    """Checks tokens.

    Raises:
        ConfigError: the key cannot be read.
    """

    def __init__(self, settings: JwtSettings, clock: Clock, metrics: Metrics) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        shared = settings.jwks_file is not None or settings.jwks_url is not None
        self._keys: FileKey | KeySet = KeySet(settings, clock, metrics) if shared else FileKey(settings)

    @property
    def generation(self) -> int:
        """A number that is another one once the keys have changed."""
        return self._keys.generation

    def refresh(self) -> None:
        """Look for new keys, without waiting for them."""
        self._keys.refresh()

    def check(self, token: str) -> Bearer:
        """Return what a token says.

        Raises:
            AuthenticationError: it is not good; the message says why.
            BusyError: the issuer's keys cannot be had.
        """
        try:
            return self._bearer(self._claims(token))
        except AuthenticationError:
            self._metrics.add("jwt_refused")
            raise

    def _claims(self, token: str) -> Mapping[str, Any]:
        settings = self._settings
        if len(token) > CHARS_MAX:
            raise AuthenticationError("the token is too long.", hint=_HINT)
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in settings.taken:  # before a key is looked for, or fetched
                raise jwt.InvalidAlgorithmError
            claims: Mapping[str, Any] = jwt.decode(
                token,
                self._keys.find(header),
                algorithms=settings.taken,
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={
                    "require": ["exp"],
                    "verify_aud": settings.audience is not None,
                    "verify_iss": settings.issuer is not None,
                    "verify_exp": False,  # by the server's clock, below
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                },
            )
            self._check_times(claims)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            text = next((text for kind, text in _REASONS if isinstance(error, kind)), "the token is none, or damaged.")
            raise AuthenticationError(text, hint=_HINT) from None
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now, leeway = self._clock.now_us() / 1e6, self._settings.leeway_s
        for name in ("exp", "nbf"):
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
                raise jwt.DecodeError
        if claims["exp"] + leeway <= now:
            raise jwt.ExpiredSignatureError
        if claims.get("nbf", 0) - leeway > now:
            raise jwt.ImmatureSignatureError

    def _bearer(self, claims: Mapping[str, Any]) -> Bearer:
        settings = self._settings
        user = _claim(claims, settings.user_claim)
        if not isinstance(user, str):
            raise AuthenticationError(f"the token has no claim {settings.user_claim} with a name.", hint=_HINT)
        try:
            check_name(user)
        except ValueError as error:
            raise AuthenticationError(f"the token's user has no good name: {error}.", hint=_HINT) from None
        said = _claim(claims, settings.roles_claim)
        names = said.split() if isinstance(said, str) else said
        roles: tuple[str, ...] | None = None
        if isinstance(names, list):
            texts = [name for name in names if isinstance(name, str)]
            if settings.role_map:
                texts = [role for name in texts for role in settings.role_map.get(name, ())]
            roles = tuple(texts)
        elif names is not None:
            raise AuthenticationError(f"the token's claim {settings.roles_claim} is no list of names.", hint=_HINT)
        return Bearer(user, roles, float(claims["exp"]) + settings.leeway_s)


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim, None for none; a name with dots that is there as it stands counts before objects."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
