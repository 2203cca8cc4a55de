"""What every section of the configuration is.

The rule of this file: an unknown key is refused, and nothing changes after it was read.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MIB = 1 << 20


class Section(BaseModel):
    """A mapping of the file; its fields are the keys that it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
