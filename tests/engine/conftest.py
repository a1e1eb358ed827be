"""Real vLLM on the CPU. These tests run in the engine's own environment: see install.sh."""

import os

# Before vLLM is imported: everything in this process, nothing from the network.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1",
    VLLM_CPU_KVCACHE_SPACE="1",
)  # fmt: skip
os.environ.pop("EAGLE_EYE_DISABLE", None)

import contextlib
import gc
import time
from pathlib import Path

import pytest
from rings import Reader, ring_files, writer_of

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "build/engine-model"


def wait_for(condition, seconds=60.0):
    """The first true value of `condition`; fails after a time that is generous for a busy machine."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def in_process(**settings):
    """(vllm.LLM, Reader or None) of an engine in this very process."""
    from vllm import LLM

    before = set(ring_files())
    defaults = {"enforce_eager": True, "dtype": "bfloat16", "max_model_len": 2048, "max_num_seqs": 64}
    engine = LLM(str(MODEL), **(defaults | settings))
    made = [path for path in set(ring_files()) - before if writer_of(path) == os.getpid()]
    reader = Reader(made[0]) if made else None
    try:
        yield engine, reader
    finally:
        if reader is not None:
            reader.close()
        engine.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


@pytest.fixture(scope="module")
def llm():
    """One engine for the tests of a module: (LLM, Reader)."""
    with in_process() as both:
        yield both
