"""tickflight-server: Arrow Flight SQL over live and historical market data."""

__version__ = "0.1.0"
