"""Whole processes put together: the server, its feed processes, the demo."""
