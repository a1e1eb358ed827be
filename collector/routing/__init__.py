"""The routing feed, and what a router needs to use it: `RoutingClient` listens, `RoutingTable` decides.

Importing this brings msgspec and, with the client, nats-py; nothing else of the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .engine import Engine, Freshness
from .table import Choice, RoutingTable

if TYPE_CHECKING:
    from .client import RoutingClient

__all__ = ["Choice", "Engine", "Freshness", "RoutingClient", "RoutingTable"]


def __getattr__(name: str) -> Any:
    """The client only when it is asked for: a router that brings its own NATS client needs the table alone."""
    if name == "RoutingClient":
        from .client import RoutingClient

        return RoutingClient
    raise AttributeError(name)
