"""Inference engines on this node: their scheduler's steps, load and latencies."""
