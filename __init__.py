"""Eagle Eye: says within the same second why an inference node is slow or broken, and proves it."""

__version__ = "0.1.0"
