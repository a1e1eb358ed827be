"""Bundles: the minute around a fault, frozen with its evidence, for people and for today's rules."""
