"""harlequin in a real terminal, in an environment of its own."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

import pytest
from connect_page import recipe

pytestmark = pytest.mark.tool("harlequin-adbc", environment="harlequin")

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
RUN = b"\x0a"
QUIT = b"\x11"


class Terminal:
    """A program in a terminal of 40 lines: what was typed goes in, what was ever shown is kept."""

    def __init__(self, command, folder, path):
        self._end, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        variables = {"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            ["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True
        )
        os.close(theirs)
        self._shown = b""

    def shows(self, text, deadline_s=60):
        """Wait until the text was shown."""
        end = time.monotonic() + deadline_s
        while text not in CONTROL.sub(b"", self._shown):
            ready, _, _ = select.select([self._end], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} was not shown: {CONTROL.sub(b' ', self._shown)[-4000:].decode(errors='replace')}"
            self._shown += os.read(self._end, 65536)

    def type(self, text):
        os.write(self._end, text)

    def close(self):
        """Read what comes, so that the program does not wait for its reader; then end it if it has not ended."""
        end = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    self._shown += os.read(self._end, 65536)
                except OSError:  # the other end is closed: the program is ending
                    break
        try:
            return self.process.wait(max(0.1, end - time.monotonic()))
        finally:
            self.process.kill()
            os.close(self._end)


@pytest.fixture
def terminal(environment, server, tmp_path):
    terminal = Terminal(recipe("harlequin", "sh", server.port), tmp_path, environment / "bin")
    yield terminal
    if terminal.process.returncode is None:
        terminal.process.kill()
        terminal.process.wait()


def test_the_recipe_shows_the_catalog_and_a_querys_result(terminal, counts):
    terminal.shows(b"Database Connected")
    terminal.shows(b"tickflight")
    terminal.type(b"SELECT 'there are ' || count(*) AS told FROM market.trades")
    terminal.shows(b"market.trades")
    terminal.type(RUN)
    terminal.shows(b"there are %d" % sum(counts.values()))
    terminal.type(QUIT)
    assert terminal.close() == 0
