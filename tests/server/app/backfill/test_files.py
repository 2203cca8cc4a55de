"""Files are read whole or refused, however they are packed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from backfill_files import DATA, gzipped, source, zipped

from tickflight_server.app.backfill.files import find_files
from tickflight_server.errors import InputError, NotFoundError

TRADES = DATA / "tardis" / "binance-futures_trades_2024-01-01_BTCUSDT.csv"


def zstd(path: Path, folder: Path) -> Path:
    packed = folder / f"{path.name}.zst"
    with pa.CompressedOutputStream(str(packed), "zstd") as stream:
        stream.write(path.read_bytes())
    return packed


def test_what_a_file_holds_does_not_depend_on_how_it_is_packed(tmp_path: Path) -> None:
    plain = source(TRADES).inspect()
    assert plain.nbytes == TRADES.stat().st_size
    for packed in (gzipped(TRADES, tmp_path), zstd(TRADES, tmp_path), zipped(TRADES, tmp_path)):
        file = source(packed)
        assert file.inspect() == plain
        assert file.name == TRADES.stem
        assert file.first_line().startswith("exchange,symbol,")


@pytest.mark.parametrize("ending", [".gz", ".zst", ".zip"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, ending: str) -> None:
    pack = {".gz": gzipped, ".zst": zstd, ".zip": zipped}[ending]
    packed = pack(TRADES, tmp_path)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match=f"{packed.name}.*cut off or damaged"):
        source(packed).inspect()


@pytest.mark.parametrize("ending", [".gz", ".zip"])
def test_a_damaged_file_is_refused(tmp_path: Path, ending: str) -> None:
    packed = {".gz": gzipped, ".zip": zipped}[ending](TRADES, tmp_path)
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    packed.write_bytes(data)
    with pytest.raises(InputError, match="cut off or damaged"):
        source(packed).inspect()


def test_an_archive_of_several_files_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "two.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "y")
    with pytest.raises(InputError, match="holds 2 files"):
        source(packed).inspect()


def test_folders_are_searched_and_other_files_named(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.csv", "b/a.csv.gz", "a.parquet", "x.zip.CHECKSUM", "b/notes.txt", "t.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    files, others = find_files((tmp_path,))
    assert [f.path.name for f in files] == ["a.parquet", "a.csv.gz", "z.csv"]
    assert [p.name for p in others] == ["notes.txt", "t.tar.gz", "x.zip.CHECKSUM"]


def test_what_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        find_files((tmp_path / "nothing.csv",))
    with pytest.raises(InputError, match="nothing to import"):
        find_files((tmp_path,))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="of no kind"):
        find_files((tmp_path / "a.txt",))


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x")
    file = source(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot read"):
        file.inspect()


def test_progress_goes_to_the_end_of_the_packed_file(tmp_path: Path) -> None:
    for packed in (TRADES, gzipped(TRADES, tmp_path), zstd(TRADES, tmp_path)):
        seen: list[int] = []
        source(packed).inspect(seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == packed.stat().st_size


@pytest.mark.slow
def test_a_file_is_read_with_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "binance_trades_x.csv"
    line = b"binance,BTCUSDT,1704067200000000,1704067200000000,1,buy,42000.1,0.5\n"
    with path.open("wb") as file:
        file.write(b"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n")
        for _ in range(40):
            file.write(line * 100_000)  # 280 MB
    code = (
        "import resource, sys; from pathlib import Path;"
        "from tickflight_server.app.backfill.files import find_files;"
        "from tickflight_server.app.backfill.chunks import find_layout, read_chunks;"
        "from tickflight_server.app.backfill.layout import Wishes;"
        "(file,), _ = find_files((Path(sys.argv[1]),)); file.inspect(); layout = find_layout(file, Wishes());"
        "chunks = read_chunks(file, layout, 'float64', lambda at: None);"
        "n = sum(layout.convert(c.cells)[0][1].num_rows for c in chunks);"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    rows, kilobytes = map(int, done.stdout.split())
    assert rows == 4_000_000
    # read whole, the file takes over 2 GB; how much the allocators keep depends on how the threads meet
    assert kilobytes < 1_500_000
