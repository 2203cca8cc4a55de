"""A process that is told to stop stops, whichever of its threads the system tells."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import signal, threading
from tickflight_server.app.stopping import stop_signals, wait_for_stop

def tell():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

with stop_signals() as stop:
    threading.Timer(0.3, tell).start()  # by then the main thread waits
    wait_for_stop(stop)
print("stopped")
"""


def test_a_signal_that_another_thread_gets_is_heard() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "stopped\n"
