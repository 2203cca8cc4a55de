"""Who did what: one line each in chained files, in which a change shows."""

from tickflight_server.audit.chain import Chain
from tickflight_server.audit.line import Line, LineError
from tickflight_server.audit.opening import audit_folder, chains_of, open_audit
from tickflight_server.audit.recorder import NO_AUDIT, Audit
from tickflight_server.audit.streams import Stream
from tickflight_server.audit.verify import Finding, Report, verify

__all__ = [
    "NO_AUDIT",
    "Audit",
    "Chain",
    "Finding",
    "Line",
    "LineError",
    "Report",
    "Stream",
    "audit_folder",
    "chains_of",
    "open_audit",
    "verify",
]
