"""``python -m tickflight_server.feed.sandbox``: the sandbox exchange as a process, see `process`."""

from __future__ import annotations

import sys

from tickflight_server.feed.sandbox.process import main

sys.exit(main())
