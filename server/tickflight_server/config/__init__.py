"""The configuration: every setting and every limit of the server, once, with its unit and its default."""

from tickflight_server.config.access import BUILT_IN, ReadGrant, RoleLimits, RoleSettings
from tickflight_server.config.audit import KEY_CHARS_MIN, AuditSettings
from tickflight_server.config.feeds import CollectorSettings, Endpoints, FeedSettings
from tickflight_server.config.identity import (
    ANONYMOUS,
    AuthSettings,
    JwtSettings,
    SubjectSettings,
    TlsSettings,
    check_name,
    is_loopback,
)
from tickflight_server.config.lakehouse import DEDUP_DEFAULT, LakehouseSettings, TierSettings
from tickflight_server.config.section import MIB
from tickflight_server.config.serving import FlightSettings, LogSettings, QuerySettings
from tickflight_server.config.settings import Settings, load_settings

__all__ = [
    "ANONYMOUS",
    "BUILT_IN",
    "DEDUP_DEFAULT",
    "KEY_CHARS_MIN",
    "MIB",
    "AuditSettings",
    "AuthSettings",
    "CollectorSettings",
    "Endpoints",
    "FeedSettings",
    "FlightSettings",
    "JwtSettings",
    "LakehouseSettings",
    "LogSettings",
    "QuerySettings",
    "ReadGrant",
    "RoleLimits",
    "RoleSettings",
    "Settings",
    "SubjectSettings",
    "TierSettings",
    "TlsSettings",
    "check_name",
    "is_loopback",
    "load_settings",
]
