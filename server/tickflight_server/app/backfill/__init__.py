"""Backfill: files of history into the tables, and tables out into files."""
