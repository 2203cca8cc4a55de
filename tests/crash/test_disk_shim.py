"""The shim sees what a process does to the disk, spoils what it is told to, and lets it through again."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from disk_model import Disk, read_tree
from disk_shim import Action, Control, EntryHead, Kind, read_journal, shim_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]

EVERYTHING = """
import os, pathlib
os.mkdir("a"); os.makedirs("a/b/c")
fd = os.open("a/f", os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"hello"); os.writev(fd, [b" ", b"", b"world"]); os.pwrite(fd, b"J", 0); os.lseek(fd, 20, 0)
other = os.dup(fd); os.write(other, b"far"); os.close(fd); os.fsync(other); os.ftruncate(other, 22)
os.dup2(other, 77); os.write(77, b"!"); os.close(77); os.close(other)
with open("a/g", "w") as file: file.write("text" * 5000)
with open("a/g", "a") as file: file.write("more")
with open("a/h", "w") as file: file.write("gone")
with open("a/h", "w") as file: file.write("new")
os.link("a/f", "a/b/l"); os.rename("a/g", "a/b/../b/c/g"); os.unlink("a/f"); os.rmdir("a/b/c/d") if 0 else None
folder = os.open("a/b", os.O_RDONLY | os.O_DIRECTORY)
fd = os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=folder); os.write(fd, b"at"); os.fdatasync(fd)
os.mkdir("y", dir_fd=folder); os.rmdir("y", dir_fd=folder); os.fsync(folder)
os.rename("x", "z", src_dir_fd=folder, dst_dir_fd=folder)
pathlib.Path("/proc/self/comm").write_text("elsewhere")
"""


PAGE = Path(__file__).parents[2] / "proto-notes" / "crash-testing.md"


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control", make=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path.resolve() / "disk"
    found.mkdir()
    return found


@pytest.fixture
def run(shim: Path, tmp_path: Path, folder: Path, control: Control) -> Run:
    def run_text(text: str, *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", text],
            env=shim_environment(shim, folder, journal=tmp_path / "journal", control=control.path),
            cwd=folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_text


def test_the_journal_tells_the_whole_folder(run: Run, folder: Path, tmp_path: Path, control: Control) -> None:
    done = run(EVERYTHING)
    assert done.returncode == 0, done.stderr
    disk = Disk()
    for entry in read_journal(tmp_path / "journal"):
        disk.apply(entry)
    assert disk.killed() == read_tree(folder)
    assert read_tree(folder)["a/b/l"] == b"Jello world" + bytes(9) + b"fa\0!"
    assert control.escapes == 0


def test_the_page_tells_the_journal_as_it_is() -> None:
    told = re.findall(r"^\| (\d+) \| (\d+) \| (\w+): ", PAGE.read_text(), re.MULTILINE)
    names = [field[0] for field in EntryHead._fields_]
    fields = [getattr(EntryHead, name) for name in names]
    assert told == [(str(f.offset), str(f.size), n) for f, n in zip(fields, names, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        "import os; a = os.open('a', 66); b = os.open('b', 66); os.copy_file_range(a, b, 1)",
        "import os; a = os.open('a', 66); b = os.open('b', 66); os.sendfile(b, a, 0, 1)",
        "import os; os.truncate('a', 0)",
        "import os; os.symlink('a', 'b')",
        "import os; a = os.open('a', 66); os.posix_fallocate(a, 0, 9)",
        "import os, mmap; a = os.open('a', 66); os.ftruncate(a, 9); mmap.mmap(a, 9)",
        "import ctypes; ctypes.CDLL(None).syscall(77, -1, 0) if __import__('platform').machine() == 'x86_64' else 1/0",
        "import os; os.rename('a', '../a')",
    ],
)
def test_what_it_cannot_model_is_an_escape(run: Run, folder: Path, control: Control, text: str) -> None:
    (folder / "a").write_bytes(b"12345")
    run(text)
    assert control.escapes == 1


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EROFS", "EACCES"])
def test_the_chosen_operations_fail_and_the_others_do_not(run: Run, folder: Path, control: Control, name: str) -> None:
    control.arm(Action.FAIL, first=2, last=3, error=getattr(errno, name), kinds=[Kind.WRITE], pattern="wanted/*")
    done = run(
        """
import os
os.mkdir("wanted")
found = []
for path in ("wanted/a", "other"):
    with open(path, "wb", buffering=0) as file:
        for _ in range(4):
            try: file.write(b"12")
            except OSError as error: found.append((path, error.errno))
print(found)
"""
    )
    assert done.stdout.strip() == str([("wanted/a", getattr(errno, name))] * 2)
    assert (control.hits, control.matched, control.hit) == (2, 4, "write wanted/a")
    assert read_tree(folder) == {"wanted": None, "wanted/a": b"1212", "other": b"12121212"}


def test_a_fault_comes_and_goes_while_the_process_runs(run: Run, control: Control) -> None:
    done = run(
        f"""
import os
from pathlib import Path
from disk_shim import Action, Control
control = Control(Path({str(control.path)!r}))
def write():
    try: return Path("a").write_bytes(b"12345678")
    except OSError as error: return error.errno
print(write()); control.arm(Action.FAIL, error=28); print(write(), write()); control.disarm(); print(write())
"""
    )
    assert done.stdout.split() == ["8", "28", "28", "8"]


def test_a_short_write_is_told_as_one(run: Run, folder: Path, control: Control) -> None:
    control.arm(Action.SHORT_THEN_FAIL, error=errno.ENOSPC, kinds=[Kind.WRITE])
    done = run("import os; f = os.open('a', 66); print(os.write(f, b'12345678')); os.write(f, b'5678')")
    assert done.stdout.split() == ["4"]
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert read_tree(folder) == {"a": b"1234"}


@pytest.mark.parametrize(
    ("action", "left"), [(Action.KILL_BEFORE, b""), (Action.KILL_MIDDLE, b"1234"), (Action.KILL_AFTER, b"12345678")]
)
def test_a_kill_is_before_within_or_after(
    run: Run, folder: Path, tmp_path: Path, control: Control, action: Action, left: bytes
) -> None:
    control.arm(action, kinds=[Kind.WRITE])
    assert run("import os; f = os.open('a', 66); os.write(f, b'12345678'); os.write(f, b'more')").returncode == -9
    assert read_tree(folder) == {"a": left}
    assert b"".join(e.data for e in read_journal(tmp_path / "journal")) == left
