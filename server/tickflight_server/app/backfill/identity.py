"""Who sends the chunks of a file, so that the store knows them again.

The rule of this file: the same content, read in the same way into the same table, has the same producer, wherever the
file lies, whatever it is called and however it is packed. A change in how rows are made raises ``FORMAT_VERSION``; the
limits of a chunk are part of the identity, since its number is of use only while it holds the same rows.
"""

from __future__ import annotations

import hashlib
import json

from tickflight_server.app.backfill.files import Content
from tickflight_server.app.backfill.layout import Layout
from tickflight_server.app.backfill.lines import LEVELS_MAX

FORMAT_VERSION = 1
PREFIX = b"import"


def producer_id(content: Content, layout: Layout, table: str) -> bytes:
    """Return the producer of a file's rows in ``table``: 26 bytes."""
    told = [
        *(FORMAT_VERSION, layout.name, table, content.nbytes, content.digest, sorted(layout.mapping.items())),
        *(layout.chunk_rows, layout.chunk_bytes, LEVELS_MAX),
    ]
    return PREFIX + hashlib.blake2b(json.dumps(told).encode(), digest_size=20).digest()
