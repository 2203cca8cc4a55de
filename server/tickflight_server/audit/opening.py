"""Opens the audit of a data folder as its configuration says.

The rule of this file: a key is read from the environment or from a file that is its owner's alone, and goes nowhere but
into the chain.
"""

from __future__ import annotations

from pathlib import Path

from tickflight_server.audit.chain import Chain
from tickflight_server.audit.recorder import Audit
from tickflight_server.audit.writer import Told
from tickflight_server.clock import Clock
from tickflight_server.config import KEY_CHARS_MIN, AuditSettings
from tickflight_server.errors import ConfigError
from tickflight_server.files import claim_folder
from tickflight_server.identity.secret_files import read_secret_text
from tickflight_server.metrics import Metrics


def open_audit(settings: AuditSettings, folder: Path, clock: Clock, metrics: Metrics, told: Told) -> Audit:
    """Return the audit that writes into ``folder``, or into the configured one; one that is off writes nothing.

    Raises:
        ConfigError: folder or key cannot be used.
    """
    chains = chains_of(settings)
    if not settings.enabled:
        return Audit(settings, clock, metrics)
    folder = audit_folder(settings, folder)
    try:
        claim_folder(folder)
        return Audit(settings, clock, metrics, folder, chains, told)
    except OSError as error:
        raise ConfigError(
            f"cannot use the folder of the audit {folder}: {error.strerror or error}.",
            hint="Set audit.folder to one that this user may write.",
        ) from None


def audit_folder(settings: AuditSettings, default: Path) -> Path:
    """Return where the files are."""
    return default if settings.folder is None else settings.folder.absolute()


def chains_of(settings: AuditSettings) -> list[Chain]:
    """Return what hashes lines, the present key's first, and those of earlier keys; the last one has none.

    Raises:
        ConfigError: a key cannot be read.
    """
    keys: list[bytes] = []
    if settings.key is not None:
        keys.append(settings.key.get_secret_value().encode())
    elif settings.key_file is not None:
        keys.append(_key(settings.key_file))
    keys += [_key(path) for path in settings.old_key_files]
    present = [] if settings.key is None and settings.key_file is None else [Chain(keys[0])]
    earlier = [Chain(key) for key in keys[len(present) :]]
    # a key may be set when there are lines already, and be taken away again
    return [*present, Chain(), *earlier] if not present else [*present, *earlier, Chain()]


def _key(path: Path) -> bytes:
    key = read_secret_text(path).encode()
    if len(key) < KEY_CHARS_MIN:
        raise ConfigError(
            f"{path} holds no key: it has fewer than {KEY_CHARS_MIN} characters.",
            hint="Make one: openssl rand -hex 32 > FILE; chmod 600 FILE.",
        )
    return key
