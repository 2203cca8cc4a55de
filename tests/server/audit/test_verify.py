"""What was done to the files afterwards is found, and where."""

import random
import shutil

import pytest
from audit_here import KEY, fill

from tickflight_server.audit import Chain, verify
from tickflight_server.audit.folder import HEAD_NAME, Head, write_head
from tickflight_server.audit.line import parse, serialize


@pytest.fixture(params=[None, KEY], ids=["without a key", "with a key"])
def filled(here, request):
    """Four files of a few lines each."""
    here.open(request.param, file_mb=0.0005)
    for _ in range(4):
        fill(here.audit, 3)
    here.close()
    assert len(here.files()) >= 4
    return here


def look(here, **known):
    return verify(here.folder, here.chains, **known)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_untouched_files_are_clean(filled):
    report = look(filled)
    assert report.clean, report.findings
    assert not report.notes
    assert (report.first, report.last) == (1, report.lines)
    assert report.lines == 12 + len(filled.files())
    assert report.head.n == report.last


def test_every_changed_byte_is_found_in_its_line(filled, request):
    full = request.config.getoption("--campaign") == "full"
    chosen = random.Random(1)
    for path in filled.files():
        data = path.read_bytes()
        places = range(len(data)) if full else chosen.sample(range(len(data)), 40)
        for place in places:
            changed = bytearray(data)
            changed[place] ^= chosen.choice((0x01, 0x20, 0x80))
            path.write_bytes(changed)
            found = look(filled).findings
            number = data.count(b"\n", 0, place) + 1
            # the line itself, or the next one, where the hash of this one was changed
            assert any(f.file == path.name and f.place in (number, number + 1) for f in found), (place, found)
        path.write_bytes(data)
    assert look(filled).clean


def test_every_removed_line_is_found(filled):
    for path in filled.files():
        lines = lines_of(path)
        for number, line in enumerate(lines):
            path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
            n = parse(line[:-1]).n
            found = " ".join(f.text for f in look(filled).findings)
            assert f"line {n} is missing" in found or f"begins with line {n + 1}" in found, found
        path.write_bytes(b"".join(lines))


def test_every_swap_and_every_line_put_in_is_found(filled):
    for path in filled.files():
        lines = lines_of(path)
        for number in range(len(lines) - 1):
            path.write_bytes(b"".join([*lines[:number], lines[number + 1], lines[number], *lines[number + 2 :]]))
            assert any(f.file == path.name and f.place == number + 1 for f in look(filled).findings)
            path.write_bytes(b"".join([*lines[: number + 1], lines[number], *lines[number + 1 :]]))
            assert any(f.file == path.name and f.place == number + 2 for f in look(filled).findings)
        path.write_bytes(b"".join(lines))


def test_every_removed_file_is_found(filled):
    for path in filled.files():
        aside = path.rename(path.with_suffix(".away"))
        text = " ".join(f.text for f in look(filled).findings)
        assert "missing" in text
        aside.rename(path)
    shutil.rmtree(filled.folder)
    filled.folder.mkdir()
    assert look(filled, known=(3, "0" * 64)).findings[0].what == "lines 1 to 3 are missing: the files end with line 0"


def test_a_forged_line_is_found_also_with_its_hash_made_right(filled):
    path = filled.files()[1]
    lines = lines_of(path)
    line = parse(lines[1][:-1])
    fields = {k: v for k, v in line.fields.items() if k not in ("n", "time")} | {"user": "somebody else"}
    lines[1], _ = serialize(line.n, line.time_us, fields, line.prev, Chain())
    path.write_bytes(b"".join(lines))
    found = look(filled).findings
    # without a key the line looks right, and the next one does not follow it
    assert {f.place for f in found} & {2, 3}


def test_a_forged_chain_is_found_with_a_key(here):
    """Who can write the files, and does not know the key, makes all hashes anew."""
    here.open(KEY)
    fill(here.audit, 5)
    here.close()
    (path,) = here.files()
    forger, prev, forged = Chain(), "0" * 64, []
    for data in lines_of(path):
        line = parse(data[:-1])
        fields = {k: v for k, v in line.fields.items() if k not in ("n", "time")}
        made, prev = serialize(line.n, line.time_us, fields | ({"key": None} if line.n == 1 else {}), prev, forger)
        forged.append(made)
    path.write_bytes(b"".join(forged))
    write_head(here.folder, Head(len(forged), prev, "2026-11-23T17:00:00.000000Z"), forger)
    assert "not sealed by the present key" in look(here).findings[0].what
    # without a key it cannot be told, and the page says so
    assert verify(here.folder, [Chain()]).clean


def test_a_cut_off_end_is_found_by_the_head_and_by_what_is_known_elsewhere(filled):
    report = look(filled)
    last = filled.files()[-1]
    last.write_bytes(b"".join(lines_of(last)[:-1]))
    assert [f.what for f in look(filled).findings] == [
        f"line {report.last} is missing: the files end with line {report.last - 1}"
    ]
    # whoever also puts an older head there is found by a line that is known
    shorter = look(filled)
    write_head(filled.folder, Head(shorter.last, shorter.hash, "2026-11-23T17:00:00.000000Z"), filled.chains[0])
    assert look(filled).clean
    found = look(filled, known=(report.last, report.hash)).findings
    assert found[0].text.startswith(f"the given line: line {report.last} is missing")
    (filled.folder / HEAD_NAME).unlink()
    assert "missing" in look(filled).findings[0].what


def test_a_head_that_was_altered_is_found(filled):
    head = filled.folder / HEAD_NAME
    head.write_bytes(head.read_bytes().replace(b'"n":', b'"n": '))
    assert look(filled).findings[0].file == HEAD_NAME


def test_another_key_finds_everything_altered(here):
    here.open(KEY)
    fill(here.audit, 2)
    here.close()
    report = verify(here.folder, [Chain(b"another key, long enough"), Chain()])
    assert "not among the given ones" in report.findings[0].what
