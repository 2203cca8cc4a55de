"""Commands for who may connect: ``users``, ``tokens`` and ``certs``.

The rule of this file: a secret is asked for or read from a file, and never an argument, which every process of the
machine may see; a running server notices what changed by itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from tickflight_server.cli.recording import record
from tickflight_server.clock import SystemClock
from tickflight_server.config import Settings, check_name, load_settings
from tickflight_server.errors import ConfigError
from tickflight_server.logs import configure_logs
from tickflight_server.paths import Layout

if TYPE_CHECKING:
    from tickflight_server.identity.records import RecordFile
    from tickflight_server.identity.tokens import ApiToken
    from tickflight_server.identity.users import User

_CONFIG = click.option("--config", type=click.Path(path_type=Path), help="YAML file; see the README.")
_STORAGE = click.option("--storage-path", type=click.Path(path_type=Path), help="Data folder.")
_ROLES = click.option("--role", "roles", multiple=True, help="A role; may be given more than once.")
_PASSWORD_FILE = click.option(
    "--password-file", type=click.File("r"), help="File whose first line is the password; - is standard input."
)
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _settings(config: Path | None, storage_path: Path | None) -> Settings:
    overrides = {"lakehouse": {"storage_path": storage_path}} if storage_path is not None else None
    settings = load_settings(config, overrides)
    configure_logs("warning", settings.log.format)
    return settings


def _users(settings: Settings) -> RecordFile[User]:
    from tickflight_server.identity.users import users_file

    file = users_file(settings.auth.users_file or Layout(settings.lakehouse.storage_path.absolute()).users)
    file.load()
    return file


def _tokens(settings: Settings) -> RecordFile[ApiToken]:
    from tickflight_server.identity.tokens import tokens_file

    file = tokens_file(settings.auth.tokens_file or Layout(settings.lakehouse.storage_path.absolute()).tokens)
    file.load()
    return file


def _check_roles(settings: Settings, roles: Iterable[str]) -> None:
    from tickflight_server.identity.rights import Roles

    Roles(settings.roles).rights(roles)


def _checked_name(name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise ConfigError(f"{name!r} cannot be a name: {error}.", hint="Take another one.") from None


def _hashed(name: str, file: TextIO | None) -> str:
    """Return the hash of a password that is asked for on the terminal, or read.

    Raises:
        ConfigError: there is no terminal, or the password is not a good one.
    """
    from tickflight_server.identity.passwords import hash_password

    if file is not None:
        password = file.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt="Again")
    else:
        raise ConfigError(
            "there is no terminal to ask for the password.", hint="Give --password-file; - reads it here."
        )
    return hash_password(password)


@click.group()
def users() -> None:
    """Add, change and remove those who log in with a password.

    A running server notices: logins of a user that was changed or removed end at once.
    """


@users.command("add")
@click.argument("name")
@_ROLES
@_PASSWORD_FILE
@_CONFIG
@_STORAGE
def users_add(
    name: str,
    roles: tuple[str, ...],
    password_file: TextIO | None,
    config: Path | None,
    storage_path: Path | None,
) -> None:
    """Add a user, whose password is asked for."""
    from tickflight_server.identity.users import User, add_user

    settings = _settings(config, storage_path)
    _check_roles(settings, roles)
    file = _users(settings)
    if _checked_name(name) in file.records:
        raise ConfigError(f"there is a user {name!r} already.", hint="Change it with `users passwd` or `users set`.")
    add_user(file, User(name, _hashed(name, password_file), tuple(dict.fromkeys(roles))))
    record(settings, "users add", name=name, roles=roles)
    click.echo(f"{name} may log in ({_told(roles) or 'roles of auth.default_roles'})")


@users.command("passwd")
@click.argument("name")
@_PASSWORD_FILE
@_CONFIG
@_STORAGE
def users_passwd(name: str, password_file: TextIO | None, config: Path | None, storage_path: Path | None) -> None:
    """Change a user's password; its logins end."""
    from tickflight_server.identity.users import change_user, find_user

    settings = _settings(config, storage_path)
    file = _users(settings)
    find_user(file.records, name)
    change_user(file, name, hash=_hashed(name, password_file))
    record(settings, "users passwd", name=name)
    click.echo(f"{name} has a new password")


@users.command("set")
@click.argument("name")
@_ROLES
@click.option("--enable/--disable", "enabled", default=None, help="Let the user in, or not any more.")
@_CONFIG
@_STORAGE
def users_set(
    name: str, roles: tuple[str, ...], enabled: bool | None, config: Path | None, storage_path: Path | None
) -> None:
    """Give a user other roles, or lock it out, by whatever it logs in; its logins end. Alone, it only ends them."""
    from tickflight_server.identity.users import change_user

    settings = _settings(config, storage_path)
    _check_roles(settings, roles)
    change_user(_users(settings), name, roles=tuple(dict.fromkeys(roles)) or None, enabled=enabled)
    record(settings, "users set", name=name, roles=roles, enabled=enabled)
    click.echo(f"{name} is changed, and has to log in again")


@users.command("list")
@_CONFIG
@_STORAGE
def users_list(config: Path | None, storage_path: Path | None) -> None:
    """List the users and their roles."""
    settings = _settings(config, storage_path)
    rows = [
        (user.name, _told(user.roles) or "(default)", "" if user.enabled else "disabled")
        for _, user in sorted(_users(settings).records.items())
    ]
    rows += [
        (name, _told(settings.auth.roles.get(name, ())) or "(default)", "of the configuration")
        for name in sorted(settings.auth.users)
    ]
    _print(("user", "roles", ""), rows)


@users.command("remove")
@click.argument("name")
@_CONFIG
@_STORAGE
def users_remove(name: str, config: Path | None, storage_path: Path | None) -> None:
    """Remove a user; its logins and tokens end."""
    from tickflight_server.identity.users import remove_user

    settings = _settings(config, storage_path)
    remove_user(_users(settings), name)
    record(settings, "users remove", name=name)
    click.echo(f"{name} is removed")


@click.group()
def tokens() -> None:
    """Make and revoke API tokens, which programs log in with."""


@tokens.command("add")
@click.argument("name")
@click.option("--user", help="Whose rights it has.")
@click.option("--role", "roles", multiple=True, help="Its own roles, in place of a user's; more than once.")
@click.option("--scope", "scopes", multiple=True, help="Narrow it to read, write, workspace or admin; more than once.")
@click.option("--expires", default="90d", show_default=True, help="When it ends: 12h, 90d, 2027-01-31, or never.")
@_CONFIG
@_STORAGE
def tokens_add(
    name: str,
    user: str | None,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    expires: str,
    config: Path | None,
    storage_path: Path | None,
) -> None:
    """Make a token and print it, which is the only time that it is seen."""
    from tickflight_server.identity.tokens import SCOPES, ApiToken, add_token, digest, new_token

    if (user is None) == (not roles):
        raise click.UsageError("give either --user or --role.")
    if unknown := set(scopes) - set(SCOPES):
        raise click.UsageError(f"--scope {min(unknown)}: there are {', '.join(SCOPES)}.")
    settings = _settings(config, storage_path)
    _check_roles(settings, roles)
    if user is not None and user not in {**_users(settings).records, **settings.auth.users}:
        raise ConfigError(f"there is no user {user!r}.", hint="See `tickflight-server users list`.")
    now_us, secret = SystemClock().now_us(), new_token()
    until = _expiry(expires, now_us)
    add_token(
        _tokens(settings),
        ApiToken(_checked_name(name), digest(secret), user, tuple(dict.fromkeys(roles)), scopes, now_us, until),
    )
    record(settings, "tokens add", name=name, of=user, roles=roles, scopes=scopes, ends=_day(until))
    click.echo(f"{name} ends {_day(until)}. Keep it now; it is not shown again:", err=True)
    click.echo(secret)


@tokens.command("list")
@_CONFIG
@_STORAGE
def tokens_list(config: Path | None, storage_path: Path | None) -> None:
    """List the tokens: whose they are, what they are narrowed to, and when they end."""
    now_us = SystemClock().now_us()
    rows = []
    for _, token in sorted(_tokens(_settings(config, storage_path)).records.items()):
        over = token.expires_us is not None and token.expires_us <= now_us
        whose = token.user or f"({_told(token.roles)})"
        rows.append((token.name, whose, _told(token.scopes) or "all", _day(token.expires_us) + " (over)" * over))
    _print(("token", "user (roles)", "scope", "ends"), rows)


@tokens.command("revoke")
@click.argument("name")
@_CONFIG
@_STORAGE
def tokens_revoke(name: str, config: Path | None, storage_path: Path | None) -> None:
    """Revoke a token; what is under way with it ends."""
    from tickflight_server.identity.tokens import revoke_token

    settings = _settings(config, storage_path)
    revoke_token(_tokens(settings), name)
    record(settings, "tokens revoke", name=name)
    click.echo(f"{name} is revoked")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("certs"))
@click.option("--host", "hosts", multiple=True, help="A name or address of the server, besides this machine's own.")
@click.option("--client", "clients", multiple=True, help="Make a client's certificate of this name, too.")
@click.option("--days", default=365, show_default=True, type=click.IntRange(1, 3650), help="How long they hold.")
def certs(folder: Path, hosts: tuple[str, ...], clients: tuple[str, ...], days: int) -> None:
    """Make an authority and certificates for development in FOLDER (certs); the keys are their owner's alone.

    An authority that is there already is used again, so that clients that trust it go on to.
    """
    from tickflight_server.identity.certificates import make_certificates

    for path in make_certificates(folder, hosts, [_checked_name(name) for name in clients], days):
        click.echo(str(path))


COMMANDS = (users, tokens, certs)


def _expiry(text: str, now_us: int) -> int | None:
    """Return when something ends, microseconds since 1970, UTC; None for never."""
    if text == "never":
        return None
    if span := re.fullmatch(r"(\d{1,5})([mhdw])", text):
        return now_us + int(span[1]) * _UNITS[span[2]] * 1_000_000
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--expires {text}: write 12h, 90d, 2027-01-31, or never.") from None
    until = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e6)
    if until <= now_us:
        raise click.UsageError(f"--expires {text} is over.")
    return until


def _day(time_us: int | None) -> str:
    return "never" if time_us is None else f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"


def _told(names: Iterable[str]) -> str:
    return ", ".join(names)


def _print(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
