"""SQL over snapshots of the store, by DuckDB."""
