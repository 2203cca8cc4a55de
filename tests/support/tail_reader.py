"""A reader of a tail in a process of its own, which may be killed: it writes down what it got, and goes on there.

A line is a batch: its resume token, and the ``seq`` and price of each row. A line that was cut off by the kill was not
got; the next run begins with the token of the one before it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tickflight


def main() -> None:
    """Read until standard input closes: ADDRESS FILE OPTIONS, the last as JSON."""
    address, path, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    path.write_text(whole)
    if whole:
        del options["since"]
        options["resume"] = json.loads(whole.splitlines()[-1])[0]
    with path.open("a") as file:
        while True:
            try:
                with tickflight.connect(address) as client, client.tail("trades", **options) as tail:
                    for batch in tail:
                        seq, price = batch.column("seq").to_pylist(), batch.column("price").to_pylist()
                        file.write(json.dumps([tail.token, seq, price]) + "\n")
                        file.flush()
                        options = {**options, "resume": tail.token}
                        options.pop("since", None)
            except tickflight.UnavailableError:
                continue  # nobody answers while the server starts: a tail that is open waits for it by itself


main()
