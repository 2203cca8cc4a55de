"""Reading the rows of many parts in C++, one part after the other, while earlier rows are on their way.

The rule of this file: what is read has been opened by ``store.access``, which found it whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

_BATCHES_AHEAD = 4
_PARTS_AHEAD = 2


def read_parts(
    paths: Sequence[str],
    schema: pa.Schema,
    columns: Mapping[str, pc.Expression],
    *,
    where: pc.Expression | None,
    batch_rows: int,
) -> pa.RecordBatchReader:
    """Return ``columns`` of the rows of the files ``paths``, all of which have the columns of ``schema``.

    ``schema`` is the table's in memory: labels are read as dictionaries, which takes half the time, and whoever wants
    text casts them. Only some batches are read ahead of the reader, however slow it is.

    Raises:
        OSError, pa.ArrowException: a file cannot be read; also while the rows are.
    """
    labels = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    form = ds.ParquetFileFormat(
        read_options=ds.ParquetReadOptions(dictionary_columns=labels),
        # whole row groups would be read into memory first: on a disk of one's own that gains nothing
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False),
    )
    found = ds.FileSystemDatasetFactory(fs.LocalFileSystem(), list(paths), form, ds.FileSystemFactoryOptions())
    return (
        found.finish(schema)
        .scanner(
            columns=dict(columns),
            filter=where,
            batch_size=batch_rows,
            batch_readahead=_BATCHES_AHEAD,
            fragment_readahead=_PARTS_AHEAD,
        )
        .to_reader()
    )
