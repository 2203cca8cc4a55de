"""tickflight-server: Arrow Flight SQL over live and historical market data."""
