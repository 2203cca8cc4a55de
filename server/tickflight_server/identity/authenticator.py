"""Who somebody is, by what they send: a password, a token, a JSON Web Token, a certificate, or nothing.

The rule of this file: a secret is compared in constant time and is never logged; whoever is not known is refused here,
and every refusal is counted and told.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import structlog
from pydantic import SecretStr

from tickflight_server.clock import Clock
from tickflight_server.config import ANONYMOUS, AuthSettings, TlsSettings, check_name
from tickflight_server.errors import AuthenticationError, LockedOutError, ServerError
from tickflight_server.identity import tokens as api
from tickflight_server.identity.attempts import Attempts
from tickflight_server.identity.passwords import Passwords
from tickflight_server.identity.records import RecordFile
from tickflight_server.identity.rights import Roles
from tickflight_server.identity.sessions import Logins, Session
from tickflight_server.identity.tokens import ApiToken
from tickflight_server.identity.users import User, users_file
from tickflight_server.identity.web_tokens import WebTokens
from tickflight_server.metrics import Metrics
from tickflight_server.paths import Layout

LOG = structlog.get_logger(__name__)
Addresses = Callable[[bool], tuple[str, ...]]
"""Says where the call that is beginning may have come from; it is asked whether that must be known."""
OnLogin = Callable[[str, str, str, bool, str], object]
"""Told of each login: user, how, address, whether it was one, and why not."""
LOOK_S = 0.1
_HINT = "Log in with user and password, or send 'authorization: Bearer <token>'."
_WRONG = "wrong user or password."


class Authenticator:
    """Checks credentials, and keeps the logins that came of them.

    Args:
        layout: where the files of users and tokens are, unless the settings say.
        fixed: further tokens by their names, of this run of the server.
        tls: whose certificates are whose.
        on_login: told of each login, good or not.

    Raises:
        ConfigError: a file cannot be used, or names a role that there is not.
    """

    def __init__(
        self,
        settings: AuthSettings,
        roles: Roles,
        clock: Clock,
        *,
        layout: Layout | None = None,
        metrics: Metrics | None = None,
        fixed: Mapping[str, SecretStr] | None = None,
        tls: TlsSettings | None = None,
        on_login: OnLogin | None = None,
    ) -> None:
        self._settings = settings
        self._roles = roles
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._fixed = {**settings.tokens, **(fixed or {})}
        self._subjects = tls.subjects if tls else []
        self.on_change: Callable[[str, Sequence[str]], object] = lambda what, names: None
        """Told when users or tokens have changed: which of both, and the names of those that are others now."""
        self.on_login: OnLogin = on_login or (lambda user, how, address, ok, reason: None)
        users, tokens = settings.users_file, settings.tokens_file
        if layout is not None:
            users, tokens = users or layout.users, tokens or layout.tokens
        self._users: RecordFile[User] | None = users_file(users) if users else None
        self._tokens: RecordFile[ApiToken] | None = api.tokens_file(tokens) if tokens else None
        self._by_digest: Mapping[str, ApiToken] = {}
        self._jwt = WebTokens(settings.jwt, clock, self._metrics) if settings.jwt else None
        self._jwt_generation = 0
        self._passwords = Passwords(
            clock,
            self._metrics,
            settings.verify_concurrent_max,
            settings.verify_queue_max,
            settings.password_cache_s,
        )
        self._attempts = Attempts(settings, clock, self._metrics)
        self._logins = Logins(settings, clock)
        self._refreshing = threading.Lock()
        self._looked = -math.inf
        self._load()
        self._check_roles()
        somebody = settings.somebody or (tls is not None and tls.client_ca_file is not None)
        self._nobody = not somebody and not self._files_exist()

    @property
    def open(self) -> bool:
        """Whether whoever comes may do everything: nobody is configured. Once somebody is, that is over."""
        return self._nobody and self._settings.anonymous is not False

    @property
    def anonymous(self) -> bool:
        """Whether calls without credentials are taken."""
        return self.open or self._settings.anonymous is True

    # --- what the files say

    def _files(self) -> list[RecordFile[User] | RecordFile[ApiToken]]:
        return [file for file in (self._users, self._tokens) if file is not None]

    def _files_exist(self) -> bool:
        return any(file.exists for file in self._files())

    def _load(self) -> None:
        for file in self._files():
            file.load()
        self._index_tokens()
        if self._users is not None and self._users.records:
            self._passwords.warm_up()

    def _index_tokens(self) -> None:
        records = self._tokens.records.values() if self._tokens is not None else ()
        self._by_digest = {token.digest: token for token in records}

    def _check_roles(self) -> None:
        """Refuse roles that there are not; in files that change later they are left out."""
        named = {role for roles in self._settings.roles.values() for role in roles} | {*self._settings.default_roles}
        named |= {role for subject in self._subjects for role in subject.roles or ()}
        if self._settings.jwt:
            named |= {role for roles in self._settings.jwt.role_map.values() for role in roles}
        self._roles.rights(named)

    def refresh(self) -> None:
        """Look at most every tenth of a second whether files or keys have changed, and end what they take back."""
        now = self._clock.monotonic()
        if now - self._looked < LOOK_S or not self._refreshing.acquire(blocking=False):
            return
        try:
            self._looked = now
            was_open = self.open
            changed = [file for file in self._files() if self._changed(file)]
            if changed:
                self._nobody = False
                self._index_tokens()
                closed = was_open and not self.open
                ended = self._logins.end_where(
                    lambda session: not self._stands(session) or (closed and session.how == ANONYMOUS)
                )
                self._metrics.add("logins_taken_back", ended)
            if self._jwt is not None:
                self._jwt.refresh()
                if self._jwt.generation != self._jwt_generation:
                    self._jwt_generation = self._jwt.generation
                    self._logins.forget_shared("JWT")
        finally:
            self._refreshing.release()

    def _changed(self, file: RecordFile[User] | RecordFile[ApiToken]) -> bool:
        """Read a file again if it has changed, and tell whom it concerns; return whether it has."""
        before: Mapping[str, object] = file.records
        after: Mapping[str, object] | None = file.refresh(self._metrics)
        if after is None:
            return False
        names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        self.on_change(file.what, names)
        return True

    def _stands(self, session: Session) -> bool:
        """Return whether what a login stands on is still so."""
        user = self._user(session.user)
        if user is not None and not user.enabled:
            return False
        return all(
            record == (self._user(record.name) if isinstance(record, User) else self._by_digest.get(record.digest))
            for record in session.proof
            if isinstance(record, User | ApiToken)
        )

    def _user(self, name: str) -> User | None:
        return self._users.records.get(name) if self._users is not None else None

    # --- who it is

    def identify(self, authorization: str | None, *, login: bool, addresses: Addresses = lambda needed: ()) -> Session:
        """Return the session for an ``authorization`` header; ``login`` makes a new one even if the user has one.

        Raises:
            AuthenticationError: no credentials, or wrong ones.
            BusyError: they cannot be checked now.
        """
        self.refresh()
        if not authorization:
            if self.anonymous:
                return self._nameless()
            raise self._refused("", "nothing", _only(addresses(False)), "this server asks who you are.")
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            return self._basic(value.strip(), login, addresses)
        if scheme.lower() == "bearer":
            return self._bearer(value.strip(), addresses)
        # what stands there is not repeated: it may be a token whose scheme was forgotten
        raise self._refused(
            "", "nothing", _only(addresses(False)), "the scheme of the authorization header is not known."
        )

    def arrived(self, session: Session, address: str) -> None:
        """Say where the first call of a login came from, which is not known before."""
        session.address = address
        if session.how == "password":
            self._attempts.trust(session.user, address)

    def end(self, session: Session) -> bool:
        """End a login; return whether there was one."""
        return self._logins.end(session)

    def _anonymous(self, user: str = ANONYMOUS) -> Session:
        names = self._settings.roles.get(ANONYMOUS) or (["admin"] if self.open else self._settings.default_roles)
        return Session("", user, self._clock.monotonic(), self._roles.rights(names))

    def _nameless(self) -> Session:
        # one for all: it can be ended for all
        return self._logins.shared(ANONYMOUS, "") or self._logins.share(ANONYMOUS, "", self._anonymous())

    def _refused(self, user: str, how: str, address: str, why: str | ServerError, hint: str = _HINT) -> ServerError:
        """Count and tell a refusal; return its error.

        No name is given to an error that is raised: it and its traceback would be a circle.
        """
        error = AuthenticationError(why, hint=hint) if isinstance(why, str) else why
        self._metrics.add("logins_refused")
        self.on_login(user, how, address, False, error.message)
        return error

    def _admitted(self, session: Session, address: str) -> Session:
        """Count and tell a login, unless its user was locked away."""
        known = self._user(session.user)
        if known is not None and not known.enabled:
            raise self._refused(
                session.user, session.how, address, "the user is not let in any more.", "Ask who runs this server."
            )
        self._metrics.add("logins")
        self.on_login(session.user, session.how, address, True, "")
        return session

    def _session(
        self,
        user: str,
        how: str,
        roles: Iterable[str] | None,
        *,
        until: float = math.inf,
        proof: tuple[object, ...] = (),
    ) -> Session:
        names = self._role_names(user) if roles is None else roles
        known = [name for name in names if name in self._roles]
        rights = self._roles.rights(known)
        return Session("", user, self._clock.monotonic(), rights, how != "password", how, until=until, proof=proof)

    def _role_names(self, user: str) -> Iterable[str]:
        record = self._user(user)
        own = record.roles if record is not None else ()
        return own or self._settings.roles.get(user) or self._settings.default_roles

    # --- user and password

    def _basic(self, value: str, login: bool, addresses: Addresses) -> Session:
        try:
            # some drivers leave out the padding
            user, colon, password = base64.b64decode(value + "=" * (-len(value) % 4)).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            user, colon, password = "", "", ""
        if self.open and colon:
            return self._logins.made(self._anonymous(user), login=login)
        if not colon:
            raise self._refused("", "password", _only(addresses(False)), "the Basic credentials cannot be read.")
        record = self._user(user)
        right = self._is_known(user, password, record)
        if right and not login and self._attempts.calm(user):
            known = self._logins.of_user(user)
            if known is not None:
                return known
        return self._verify(user, password, record, right, login, addresses(True))

    def _verify(
        self, user: str, password: str, record: User | None, right: bool, login: bool, addresses: tuple[str, ...]
    ) -> Session:
        address = self._attempts.likely(user, addresses)
        try:
            check_name(user)
        except ValueError:
            raise self._refused("", "password", address, _WRONG) from None
        try:
            attempt = self._attempts.begin(user, address)
        except LockedOutError as locked:
            raise self._refused(user, "password", address, locked) from None
        try:
            right = right or self._is_right(user, password, record)
        except BaseException:
            self._attempts.dropped(attempt)
            raise
        if not right:
            self._attempts.failed(attempt)
            raise self._refused(user, "password", address, _WRONG, "Check both; they are case-sensitive.")
        self._attempts.succeeded(attempt)
        session = self._session(user, "password", None, proof=() if record is None else (record,))
        return self._logins.made(self._admitted(session, address), login=login)

    def _is_known(self, user: str, password: str, record: User | None) -> bool:
        """Return whether a password is right, where that takes no time."""
        if record is not None:
            return record.enabled and self._passwords.known(user, password, record.hash)
        expected = self._settings.users.get(user)
        return expected is not None and hmac.compare_digest(expected.get_secret_value().encode(), password.encode())

    def _is_right(self, user: str, password: str, record: User | None) -> bool:
        if self._users is None or not self._users.records:
            return False  # there are only users of the configuration
        # an unknown user takes as long as a known one
        return self._passwords.holds(user, password, record.hash if record is not None and record.enabled else None)

    # --- tokens

    def _bearer(self, token: str, addresses: Addresses) -> Session:
        session = self._logins.find(token) or self._logins.shared("bearer", token)
        if session is not None:
            return session
        for name, secret in self._fixed.items():
            if hmac.compare_digest(secret.get_secret_value().encode(), token.encode()):
                made = self._admitted(self._session(name, "token", None), _only(addresses(False)))
                return self._logins.share("bearer", token, made)
        if token.startswith(api.PREFIX):
            made = self._api_token(token, addresses)
        elif self._jwt is not None and token.count(".") == 2:
            made = self._web_token(token, addresses)
        elif self.open:
            return self._nameless()
        else:
            raise self._refused(
                "", "token", _only(addresses(False)), "the bearer token is unknown or has ended.", "Log in again."
            )
        return self._logins.share("bearer", token, self._admitted(made, _only(addresses(False))))

    def _api_token(self, token: str, addresses: Addresses) -> Session:
        record = self._by_digest.get(api.digest(token))
        if record is None:
            raise self._refused(
                "",
                "API token",
                _only(addresses(False)),
                "the API token is unknown or was revoked.",
                "Ask for a new one.",
            )
        left_s = math.inf if record.expires_us is None else (record.expires_us - self._clock.now_us()) / 1e6
        if left_s <= 0:
            raise self._refused(
                record.user or record.name,
                "API token",
                _only(addresses(False)),
                "the API token has expired.",
                "Ask for a new one.",
            )
        proof: tuple[object, ...] = (record,)
        if record.user is not None:
            user = self._user(record.user)
            if user is None and record.user not in self._settings.users:
                raise self._refused(
                    record.user,
                    "API token",
                    _only(addresses(False)),
                    "the API token's user is not there any more.",
                    "Ask for a new one.",
                )
            proof += () if user is None else (user,)
        session = self._session(
            record.user or record.name,
            "API token",
            None if record.user else record.roles,
            until=self._clock.monotonic() + left_s,
            proof=proof,
        )
        session.rights = api.narrowed(session.rights, record.scopes)
        session.token = record.name  # what it is told by, not the secret
        return session

    def _web_token(self, token: str, addresses: Addresses) -> Session:
        assert self._jwt is not None
        try:
            bearer = self._jwt.check(token)
        except ServerError as error:
            raise self._refused("", "JWT", _only(addresses(False)), error) from None
        until = self._clock.monotonic() + bearer.expires_s - self._clock.now_us() / 1e6
        return self._session(bearer.user, "JWT", bearer.roles, until=until)

    # --- certificates

    def by_certificate(self, name: str, address: str) -> Session:
        """Return the session of the bearer of a client certificate, by the certificate's name.

        Raises:
            AuthenticationError: nobody is meant by it.
        """
        self.refresh()
        session = self._logins.shared("certificate", name)
        if session is not None:
            return session
        subject = next((s for s in self._subjects if fnmatchcase(name, s.pattern)), None)
        try:
            if subject is None:
                raise ValueError
            user = check_name(subject.user or name)
        except ValueError:
            if self._settings.anonymous is True:
                return self._nameless()
            raise self._refused(
                name[:200],
                "certificate",
                address,
                "the certificate is of nobody known here.",
                "See flight.tls.subjects.",
            ) from None
        made = self._session(user, "certificate", subject.roles)
        return self._logins.share("certificate", name, self._admitted(made, address))


def _only(addresses: tuple[str, ...]) -> str:
    return addresses[0] if len(addresses) == 1 else ""
