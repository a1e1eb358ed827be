"""What can be known on a node: one file, one registry line and one test per probe."""
