"""The asyncio agent: schedules probes, composes snapshots, publishes to NATS and Prometheus."""
