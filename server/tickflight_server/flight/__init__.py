"""Flight SQL over pyarrow.flight: decode, call a service, map errors once."""
