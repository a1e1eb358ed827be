"""The commands that live on this floor: one module each, with `arguments(parser)` and `run(arguments)`.

The docstring of a command's module is its help text; `EXAMPLES` closes it.
"""
