"""``python -m tickflight_server.cli``."""

from tickflight_server.cli import main

main()
