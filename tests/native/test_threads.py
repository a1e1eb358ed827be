"""Objects in several threads: each thread is told its own failure, and close never meets a call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from eagle_eye.native import bpf
from eagle_eye.native.bpf import Object
from eagle_eye.native.errors import BpfError, BpfLoadError, EagleEyeError, UnavailableError


def outcome(path) -> str:
    try:
        with Object(path) as one:
            one.load()
    except EagleEyeError as why:
        return f"{type(why).__name__}: {why}"
    return "loaded"


def test_each_thread_is_told_its_own_failure(opened, compiled):
    opened("rings")
    paths = [compiled(name) for name in ("rings", "refused", "missing_hook")] * 8
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(outcome, paths))
    assert set(said[0::3]) == {"loaded"}
    for refused, missing in zip(said[1::3], said[2::3], strict=True):
        assert refused.startswith(BpfLoadError.__name__)
        assert "invalid mem access" in refused
        assert "no_such_hook" not in refused
        assert missing.startswith(UnavailableError.__name__)
        assert "eagle_eye_no_such_hook" in missing


def test_a_load_that_hangs_does_not_keep_the_others(opened, monkeypatch):
    monkeypatch.setattr(bpf, "_LOADING_WAIT_S", 0.05)
    with bpf._loading:
        opened("rings").load()
    assert not bpf._loading.locked()


def test_close_while_other_threads_use_the_object(opened, compiled):
    opened("maps")
    unexpected: list[BaseException] = []

    def use(one: Object) -> None:
        try:
            table = one.map("hash")
            while True:
                table.put(bytes(4), bytes(8))
                table.get(bytes(4))
                one.map("mmapable")
        except BpfError:
            return
        except BaseException as why:
            unexpected.append(why)

    for _ in range(30):
        one = Object(compiled("maps"))
        one.load()
        users = [threading.Thread(target=use, args=(one,)) for _ in range(4)]
        for user in users:
            user.start()
        one.close()
        for user in users:
            user.join(5)
            assert not user.is_alive()
    assert unexpected == []
