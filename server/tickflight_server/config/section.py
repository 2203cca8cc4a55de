"""What every section of the configuration is.

The rule of this file: an unknown key is refused, and nothing changes after it was read.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

MIB = 1 << 20


class Section(BaseModel):
    """A mapping of the file; its fields are the keys that it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")


def check_variables(names: dict[str, str]) -> dict[str, str]:
    """Return names of environment variables that hold secrets, by what they are for.

    Raises:
        ValueError: one is no such name; it may be the secret itself, and is not repeated.
    """
    for what, name in names.items():
        if not _VARIABLE.fullmatch(name):
            raise ValueError(
                f"{what} must be the name of an environment variable, in capitals and with an underscore, such as "
                "EXCHANGE_KEY_ID"
            )
    return names
