"""One process a folder, one identity for life, nobody else's eyes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from tickflight_server.errors import ConfigError
from tickflight_server.paths import Layout
from tickflight_server.store.identity import FolderLock, load_writer


def test_a_folder_held_by_another_process_is_refused_with_its_pid(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "lake")
    hold = (
        "import sys; from pathlib import Path; from tickflight_server.paths import Layout;"
        "from tickflight_server.store.identity import FolderLock;"
        "FolderLock(Layout(Path(sys.argv[1]))).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(layout.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"another server \(process {other.pid} on \S+ since 20\S+Z\)"):
            FolderLock(layout).acquire()
        other.kill()
    lock = FolderLock(layout)  # the lock of a killed process is gone with it
    lock.acquire()
    lock.close()


def test_a_folder_that_was_let_go_can_be_held_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    lock = FolderLock(layout)
    lock.acquire()
    told = re.fullmatch(r"(\d+) on (\S+) since (\S+)\n", layout.lock.read_text())
    assert told[1] == str(os.getpid())
    assert told[2] == socket.gethostname()
    assert abs(datetime.fromisoformat(told[3]).timestamp() - time.time()) < 60
    with pytest.raises(ConfigError, match=str(os.getpid())):
        FolderLock(layout).acquire()
    lock.close()
    lock.close()
    again = FolderLock(layout)
    again.acquire()
    again.close()


@pytest.mark.parametrize("place", ["file/lake", "file"])
def test_a_folder_below_a_file_is_refused_as_a_mistake_of_the_configuration(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot use the data folder .* Hint: Give lakehouse\.storage_path"):
        FolderLock(Layout(tmp_path / place)).acquire()


def test_a_folder_where_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot use the data folder /proc/tickflight"):
        FolderLock(Layout(Path("/proc/tickflight"))).acquire()


def test_the_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.internal.mkdir()
    first = load_writer(layout)
    assert isinstance(first, UUID)
    assert load_writer(layout) == first
    assert [p.name for p in layout.internal.iterdir()] == ["writer"]


def test_an_identity_half_written_by_a_crash_is_made_anew(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.internal.mkdir()
    layout.writer.with_suffix(".new").write_text("0011")
    assert load_writer(layout) == load_writer(layout)


@pytest.mark.parametrize("content", ["", "not a uuid", "\0\0"])
def test_an_identity_file_with_something_else_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    layout = Layout(tmp_path)
    layout.internal.mkdir()
    layout.writer.write_text(content)
    with pytest.raises(ConfigError, match="do not make a new one"):
        load_writer(layout)
    assert layout.writer.read_text() == content


def test_an_identity_that_cannot_be_written_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.internal.write_text("a file")
    with pytest.raises(ConfigError):
        load_writer(layout)


def test_new_folders_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "deep" / "lake")
    before = os.umask(0)
    try:
        lock = FolderLock(layout)
        lock.acquire()
        load_writer(layout)
    finally:
        os.umask(before)
    lock.close()
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "deep", layout.root, layout.internal)} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in (layout.lock, layout.writer)} == {0o600}


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    layout = Layout(tmp_path / "lake")
    lock = FolderLock(layout)
    lock.acquire()
    lock.close()
    for folder in (layout.root, layout.internal):
        folder.chmod(mode)
        with pytest.raises(ConfigError, match=rf"others may write in the folder {folder} .*chmod -R go-rwx {folder}"):
            FolderLock(layout).acquire()
        assert folder.stat().st_mode & 0o7777 == mode
        folder.chmod(0o700)
    lock.acquire()
    lock.close()


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match=rf"belongs to another user .*chown -R \S+ {tmp_path}"):
        FolderLock(Layout(tmp_path)).acquire()


def test_an_empty_folder_is_closed_to_others_and_so_is_one_of_ours(tmp_path: Path) -> None:
    """An empty one has nothing that others could have changed; ours may come from a version that made it readable."""
    layout = Layout(tmp_path / "lake")
    layout.root.mkdir()
    layout.root.chmod(0o777)
    lock = FolderLock(layout)
    lock.acquire()
    lock.close()
    assert layout.root.stat().st_mode & 0o777 == 0o700
    (layout.root / "trades" / "_delta_log").mkdir(parents=True)
    for path in (layout.root, layout.root / "trades", layout.internal):
        path.chmod(0o755)
    layout.lock.chmod(0o644)
    lock.acquire()
    lock.close()
    assert {p.stat().st_mode & 0o777 for p in (layout.root, layout.root / "trades", layout.internal)} == {0o700}
    assert layout.lock.stat().st_mode & 0o777 == 0o600


def test_a_folder_with_other_things_in_it_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a text")
    tmp_path.chmod(0o755)
    lock = FolderLock(Layout(tmp_path))
    lock.acquire()
    lock.close()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert Layout(tmp_path).internal.stat().st_mode & 0o777 == 0o700
