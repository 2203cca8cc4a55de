"""The whole configuration, and how it is read.

The rule of this file: values come, strongest first, from arguments, environment variables
(``TICKFLIGHT_LAKEHOUSE__STORAGE_PATH``), a YAML file, and the defaults; a fault names the key.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tickflight_server.config.access import RoleSettings
from tickflight_server.config.audit import AuditSettings
from tickflight_server.config.feeds import CollectorSettings, FeedSettings
from tickflight_server.config.identity import AuthSettings
from tickflight_server.config.lakehouse import LakehouseSettings
from tickflight_server.config.serving import FlightSettings, LogSettings, QuerySettings
from tickflight_server.errors import ConfigError
from tickflight_server.redact import learn

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="TICKFLIGHT_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    lakehouse: LakehouseSettings = Field(default_factory=lambda: LakehouseSettings())
    query: QuerySettings = Field(default_factory=lambda: QuerySettings())
    flight: FlightSettings = Field(default_factory=lambda: FlightSettings())
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings())
    roles: dict[str, RoleSettings] = Field(default_factory=dict, description="what may be seen and done, by role")
    collector: CollectorSettings = Field(default_factory=lambda: CollectorSettings())
    feeds: list[FeedSettings] = Field(default_factory=list, description="feeds that serve starts and supervises")
    audit: AuditSettings = Field(default_factory=lambda: AuditSettings())
    log: LogSettings = Field(default_factory=lambda: LogSettings())

    @field_validator("roles")
    @classmethod
    def _named(cls, value: dict[str, RoleSettings]) -> dict[str, RoleSettings]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(f"the role's name {name[:100]!r} has other characters than letters, digits, - and _")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose values come in as arguments."""
        return env_settings, init_settings


def load_settings(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read the configuration from ``path`` and the environment, and lay ``overrides`` on top.

    ``overrides`` has the shape of the file, ``{"flight": {"port": 0}}``, and wins over everything.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value does not fit; the message names the key.
    """
    try:
        settings = Settings(**_read_yaml(path))
        if overrides:
            settings = _override(settings, overrides)
    except ValidationError as error:
        raise _config_error(error, path) from None
    except SettingsError as error:
        raise ConfigError(f"an environment variable is not JSON: {error}.", hint="Write mappings as JSON.") from None
    learn(_secrets(settings))
    if not settings.lakehouse.enabled:
        raise ConfigError("lakehouse.enabled is false.", hint="Set it to true: there is nothing to serve otherwise.")
    return settings


def _override(settings: Settings, overrides: dict[str, Any]) -> Settings:
    """Return ``settings`` with ``overrides`` laid on top, each touched section validated again."""
    changed: dict[str, Any] = {}
    for name, value in overrides.items():
        section = getattr(settings, name)
        if isinstance(section, BaseModel):
            changed[name] = type(section).model_validate(section.model_dump() | value)
        elif isinstance(section, dict):
            changed[name] = section | {key: RoleSettings.model_validate(item) for key, item in value.items()}
        else:
            changed[name] = [FeedSettings.model_validate(item) for item in value]
    return settings.model_copy(update=changed)


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.", hint="Check --config.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date of no calendar, bytes of no text
        place = _yaml_place(error)
        raise ConfigError(f"{path} is not valid YAML: {place}.", hint="Mend the file at that place.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping of sections.", hint=f"Sections are {', '.join(_sections())}.")
    return {str(key): value for key, value in document.items()}


_NO_PLACE: Mapping[type[Exception], str] = {
    UnicodeDecodeError: "it is no text in UTF-8",
    RecursionError: "it is nested too deeply",
    ValueError: "a date or a number in it is none",
    Exception: "a character in it is not allowed",
}


def _yaml_place(error: Exception) -> str:
    """Return what is wrong and where; the lines themselves, which an error of the library quotes, may hold secrets."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return next(what for kind, what in _NO_PLACE.items() if isinstance(error, kind))
    mark = error.problem_mark or error.context_mark
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{_QUOTED.sub('…', error.problem or error.context or 'it cannot be read')}{where}"


def _secrets(value: Any) -> Iterator[str]:
    """Yield the secrets in a section, and those in the environment that it names."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name == "credentials":
                yield from (os.environ[variable] for variable in inner.values() if variable in os.environ)
            yield from _secrets(inner)
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _secrets(inner)


def _sections() -> list[str]:
    return list(Settings.model_fields)


def _config_error(error: ValidationError, path: Path | None) -> ConfigError:
    """Turn pydantic's report into one line about the first fault, with the closest known key as a hint."""
    first = error.errors(include_url=False, include_input=False)[0]
    location = [str(part) for part in first["loc"]]
    where = f"in {path}" if path else "in the environment"
    name = ".".join(location) or "(the whole file)"
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
        return ConfigError(f"unknown configuration key {name!r} {where}.", hint=hint)
    message = first["msg"].rstrip(".")
    return ConfigError(f"{name} {where}: {message}.", hint="See the table of settings in the README.")


def _known_keys(location: list[str]) -> list[str]:
    model: Any = Settings
    mapping = False
    for part in location:
        if part.isdigit() or mapping:
            mapping = False  # a place in a list, or a name of the operator's
            continue
        annotation = model.model_fields[part].annotation
        mapping = getattr(annotation, "__origin__", None) is dict
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = arguments[0] if arguments else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)
