"""The descriptor pool of the generated modules, apart from the one that a Python process shares.

The rule of this file: the protocol's messages are registered here and nowhere else. protobuf's default pool takes each
full name once: another package in the process that brings its own ``arrow.flight.protocol.sql.CommandGetTables`` (such
Flight SQL clients exist) would make the second import of the two raise ``TypeError: duplicate symbol``, whatever the
files are called. With a pool of our own both live side by side; only messages of the two cannot be mixed, and bytes are
all that is exchanged. ``make proto`` makes the generated code import this module in the place of protobuf's own.
"""

from __future__ import annotations

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP_FILE

_POOL = DescriptorPool()
_POOL.AddSerializedFile(TIMESTAMP_FILE.serialized_pb)  # flight.proto imports it


def Default() -> DescriptorPool:  # noqa: N802 - the name that generated code calls
    """Return the private pool."""
    return _POOL
