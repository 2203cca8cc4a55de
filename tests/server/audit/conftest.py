"""An audit in a folder of its own."""

import pytest
from audit_here import AuditHere


@pytest.fixture
def here(tmp_path):
    made = AuditHere(tmp_path)
    yield made
    made.close()
