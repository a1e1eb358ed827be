"""Snapshots and events as text for people: sentences, plain lines and the live screen."""
