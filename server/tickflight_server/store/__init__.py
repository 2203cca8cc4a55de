"""The store: log, ring, parts, catalog, snapshots. Everything above uses it through ``Store``."""

from tickflight_server.store.committer import Ack
from tickflight_server.store.parts import PartIndex
from tickflight_server.store.pins import Pin, PinBoard
from tickflight_server.store.ring import Segment
from tickflight_server.store.seen import SeenStore
from tickflight_server.store.snapshot import TableSnapshot
from tickflight_server.store.store import Store
from tickflight_server.store.table import Table
from tickflight_server.store.taking import PRODUCER_BYTES_MAX, SEQUENCE_MAX

__all__ = [
    "PRODUCER_BYTES_MAX",
    "SEQUENCE_MAX",
    "Ack",
    "PartIndex",
    "Pin",
    "PinBoard",
    "SeenStore",
    "Segment",
    "Store",
    "Table",
    "TableSnapshot",
]
