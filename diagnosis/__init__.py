"""Verdicts over the fleet; talks to the collector over NATS only."""
