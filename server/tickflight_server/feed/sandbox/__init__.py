"""The sandbox exchange: a deterministic market on loopback that speaks real exchanges' public protocols.

The rule of this folder: nothing here imports cryptofeed. cryptofeed's own unmodified handlers are the judges of what
is spoken here, and a judge may not supply the evidence.
"""

from tickflight_server.feed.sandbox.market import Market
from tickflight_server.feed.sandbox.process import SandboxOptions, run
from tickflight_server.feed.sandbox.server import PROTOCOLS, SandboxExchange

__all__ = ["PROTOCOLS", "Market", "SandboxExchange", "SandboxOptions", "run"]
