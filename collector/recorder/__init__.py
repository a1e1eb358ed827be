"""The black box: what the agent saw, on disk, bounded, and there after a crash."""
