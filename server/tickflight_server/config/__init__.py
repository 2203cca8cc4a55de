"""The configuration: every setting and every limit of the server, once, with its unit and its default."""

from tickflight_server.config.feeds import CollectorSettings, Endpoints, FeedSettings
from tickflight_server.config.lakehouse import DEDUP_DEFAULT, LakehouseSettings, TierSettings
from tickflight_server.config.section import MIB
from tickflight_server.config.serving import AuthSettings, FlightSettings, LogSettings, QuerySettings
from tickflight_server.config.settings import Settings, load_settings

__all__ = [
    "DEDUP_DEFAULT",
    "MIB",
    "AuthSettings",
    "CollectorSettings",
    "Endpoints",
    "FeedSettings",
    "FlightSettings",
    "LakehouseSettings",
    "LogSettings",
    "QuerySettings",
    "Settings",
    "TierSettings",
    "load_settings",
]
