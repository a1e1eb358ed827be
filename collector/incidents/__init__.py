"""Faults become incidents: one per cause and device, with the action that is asked for, until it is over."""
