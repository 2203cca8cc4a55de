from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def process(tmp_path):
    command = [sys.executable, "-m", "tickflight_server.feed.sandbox", "--dir", str(tmp_path / "s"), "--die-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as child:
        yield child
        if child.poll() is None:
            child.kill()


def started(process):
    return json.loads(process.stdout.readline())


def ended(process):
    lines = process.stdout.read().splitlines()
    assert process.wait(20) == 0
    assert len(lines) == 1
    return json.loads(lines[0])


def test_process_says_its_endpoints_and_on_a_signal_its_counters(process):
    endpoints = started(process)
    assert set(endpoints) == {"BINANCE", "OKX"}
    assert set(endpoints["OKX"]) == {"exchange", "websocket", "rest", "ca_file"}
    process.send_signal(signal.SIGTERM)
    assert set(ended(process)["exchanges"]) == {"BINANCE", "OKX"}


def test_process_ends_when_its_standard_input_does(process):
    started(process)
    process.stdin.close()
    assert "events_made" in ended(process)


def test_impossible_options_end_with_a_reason(tmp_path):
    command = [sys.executable, "-m", "tickflight_server.feed.sandbox", "--dir", str(tmp_path), "--protocols", "NONO"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "NONO" in done.stderr
    assert done.stdout == ""
