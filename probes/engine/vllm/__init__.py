"""The plugin for vLLM: what its scheduler and its front end know, into shared memory that the agent reads.

Runs inside vLLM's processes, shipped as `eagle-eye-vllm`: needs nothing but the standard library and vLLM itself.
"""

__version__ = "0.1.0"
