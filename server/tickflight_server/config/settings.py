"""The whole configuration, and how it is read.

The rule of this file: values come, strongest first, from arguments, environment variables
(``TICKFLIGHT_LAKEHOUSE__STORAGE_PATH``), a YAML file, and the defaults; a fault names the key.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tickflight_server.config.feeds import CollectorSettings, FeedSettings
from tickflight_server.config.lakehouse import LakehouseSettings
from tickflight_server.config.serving import AuthSettings, FlightSettings, LogSettings, QuerySettings
from tickflight_server.errors import ConfigError


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="TICKFLIGHT_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    lakehouse: LakehouseSettings = Field(default_factory=lambda: LakehouseSettings())
    query: QuerySettings = Field(default_factory=lambda: QuerySettings())
    flight: FlightSettings = Field(default_factory=lambda: FlightSettings())
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings())
    collector: CollectorSettings = Field(default_factory=lambda: CollectorSettings())
    feeds: list[FeedSettings] = Field(default_factory=list, description="feeds that serve starts and supervises")
    log: LogSettings = Field(default_factory=lambda: LogSettings())

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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {place}.", hint="Mend the file at that place.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} must hold a mapping of sections.", hint=f"Sections are {', '.join(_sections())}.")
    return {str(key): value for key, value in document.items()}


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
    for part in location:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        arguments = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = arguments[0] if arguments else annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)
