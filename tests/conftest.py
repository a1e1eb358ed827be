"""Shared fixtures."""

from __future__ import annotations

import pytest

from eagle_eye.probes.paths import Paths
from eagle_eye.probes.probe import Context, EventSource


@pytest.fixture
def context():
    """A probe context with real paths; `context(probe="x", paths=…, **options)` makes another."""

    def make(probe: str = "test", paths: Paths | None = None, **options: object) -> Context:
        source = EventSource(probe, node="node", cluster="cluster", boot_id="boot")
        return Context(paths=paths or Paths(), options=options, events=source)

    return make
