"""Lines reach the files in order, whatever happens to process and disk."""

import errno
import os
import threading

import pytest
from audit_here import KEY, fill

from tickflight_server.audit import verify
from tickflight_server.audit.line import parse
from tickflight_server.errors import BusyError


def said(here, *kinds):
    lines = [parse(data) for path in here.files() for data in path.read_bytes().splitlines()]
    return [line.fields for line in lines if not kinds or line.kind in kinds]


def clean(here):
    report = verify(here.folder, here.chains)
    assert report.clean, report.findings
    return report


def test_lines_go_on_after_a_restart(here):
    for _ in range(3):
        here.open()
        fill(here.audit, 2)
        here.close()
    assert clean(here).lines == 7
    assert len(here.files()) == 1
    assert not here.told


def test_a_torn_last_line_is_taken_away_and_noted(here):
    here.open()
    fill(here.audit, 3)
    here.close()
    (path,) = here.files()
    whole = path.read_bytes()
    for cut in (1, 50, 200):
        # the head tells of lines that are on the disk, and of no others
        path.write_bytes(whole + whole.splitlines()[-1][:cut])
        assert "not whole" in clean(here).notes[-1]
        here.open()
        here.close()
        assert said(here, "repaired")[-1]["bytes_cut"] == cut
        clean(here)
        whole = path.read_bytes()


def test_an_end_that_was_cut_off_is_told_at_the_next_start_and_stays_to_be_seen(here):
    here.open()
    fill(here.audit, 5)
    here.close()
    (path,) = here.files()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    here.open()
    fill(here.audit, 1)
    here.close()
    assert "lines 5 to 6 are missing" in here.told[0]
    assert said(here, "damaged")[0]["n"] == 8
    assert any("lines 5 to 6 are missing" in f.what for f in verify(here.folder, here.chains).findings)


def test_a_damaged_last_line_is_kept_and_told(here):
    here.open()
    fill(here.audit, 3)
    here.close()
    (path,) = here.files()
    damaged = path.read_bytes().replace(b'"user2"', b'"userX"')
    path.write_bytes(damaged)
    here.open()
    fill(here.audit, 1)
    here.close()
    assert path.read_bytes() == damaged
    assert "line 4" in here.told[0]
    assert "altered" in said(here, "damaged")[0]["what"]


def test_a_new_key_seals_a_new_file_and_the_old_ones_stay_right(here):
    here.open()
    fill(here.audit, 2)
    here.close()
    here.open(KEY)
    fill(here.audit, 2)
    here.close()
    assert clean(here).notes == [f"{here.files()[1].name}:1: the key was changed"]
    assert ["key" in f for f in said(here, "file")] == [False, True]


def test_files_are_changed_by_size_and_by_age(here):
    here.open(file_mb=0.001)
    for _ in range(10):
        fill(here.audit, 2)
    here.close()
    assert 4 <= len(here.files()) <= 10
    here.open(file_hours=1)
    fill(here.audit, 1)
    count = len(here.files())
    here.clock.move(3601)
    here.audit._writer._turned -= 10
    fill(here.audit, 1)
    here.close()
    assert len(here.files()) == count + 1
    clean(here)


def test_old_files_are_removed_and_that_is_noted(here):
    here.open(file_mb=0.0005, keep_days=1)
    for _ in range(3):
        fill(here.audit, 2)
    here.close()
    before = here.files()
    here.clock.move(2 * 86_400)
    here.open(file_mb=0.0005, keep_days=1)
    fill(here.audit, 1)
    here.close()
    assert [f["file"] for f in said(here, "removed")] == [p.name for p in before[:-1]]
    assert not set(before[:-1]) & set(here.files())
    (note,) = clean(here).notes
    assert "removed by the server" in note
    # one more that goes by another's hand is found
    here.files()[0].unlink()
    assert not verify(here.folder, here.chains).clean


def test_files_are_private(here):
    before = os.umask(0)
    try:
        here.open()
        fill(here.audit)
        here.close()
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in here.folder.iterdir()} == {0o600}


def test_nothing_is_lost_while_the_disk_fails(here, monkeypatch):
    """Of a write a part reaches the disk, then none; the file is whole again when the disk is."""
    monkeypatch.setattr("tickflight_server.audit.writer._AGAIN_S", 0.01)
    here.open()
    fill(here.audit, 3)
    real, failures = os.write, iter(range(5))
    writing = here.audit._writer._fd

    def failing(fd, data):
        if fd == writing:
            number = next(failures, None)
            if number == 0:
                return real(fd, bytes(data)[:30])
            if number is not None:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", failing)
    fill(here.audit, 5)
    assert next(failures, None) is None
    here.close()
    assert clean(here).lines == 9
    assert "No space left" in here.told[0]
    assert here.told[-1] is None
    assert here.metrics.read()["audit_failures"] >= 2


def test_a_sync_that_fails_is_made_good(here, monkeypatch):
    monkeypatch.setattr("tickflight_server.audit.writer._AGAIN_S", 0.01)
    here.open()
    fill(here.audit, 1)
    real, failures = os.fsync, iter(range(3))
    (path,) = here.files()

    def failing(fd):
        if os.path.realpath(f"/proc/self/fd/{fd}") == str(path) and next(failures, None) is not None:
            os.ftruncate(fd, max(0, os.fstat(fd).st_size - 100))  # what the system forgets of it
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", failing)
    fill(here.audit, 3)
    here.close()
    assert clean(here).lines == 5


def test_a_full_queue_lets_nobody_begin_and_loses_nothing(here, monkeypatch):
    monkeypatch.setattr("tickflight_server.audit.writer._AGAIN_S", 0.01)
    here.open(queue_max=3, wait_s=0.05)
    stuck, real = threading.Event(), os.write
    writing = here.audit._writer._fd

    def blocked(fd, data):
        if fd == writing:
            stuck.wait(30)
        return real(fd, data)

    monkeypatch.setattr(os, "write", blocked)
    for number in range(5):
        here.audit.login(f"user{number}", "password")
    with pytest.raises(BusyError, match=r"audit\.queue_max"):
        here.audit.admit()
    waiting = threading.Thread(target=here.audit.admit)
    here.audit._settings = here.audit._settings.model_copy(update={"wait_s": 30.0})
    waiting.start()
    stuck.set()
    waiting.join(30)
    assert not waiting.is_alive()
    here.close()
    assert clean(here).lines == 6
    assert here.metrics.read()["audit_refusals"] == 1


def test_lines_that_are_dropped_by_choice_are_counted_and_noted(here, monkeypatch):
    here.open(queue_max=3, when_full="drop")
    stuck, real = threading.Event(), os.write
    writing = here.audit._writer._fd

    def blocked(fd, data):
        if fd == writing:
            stuck.wait(30)
        return real(fd, data)

    monkeypatch.setattr(os, "write", blocked)
    for number in range(10):
        here.audit.admit()
        here.audit.login(f"user{number}", "password")
    stuck.set()
    assert here.audit._writer.drain()
    here.close()
    dropped = here.metrics.read()["audit_dropped"]
    assert dropped >= 5
    assert sum(f["lines"] for f in said(here, "dropped")) == dropped
    assert len(said(here, "login")) == 10 - dropped
    clean(here)
