"""Few arenas and no matrix threads, in a process that was told so before it started any."""

import subprocess
import sys

CHILD = """
import ctypes, os, sys, threading
from eagle_eye.native.frugal import be_frugal
if sys.argv[1] == "frugal":
    be_frugal()
import numpy
print(len(os.listdir("/proc/self/task")))
gate = threading.Barrier(9)
def work():
    kept = [bytes(3000) for _ in range(100)]
    gate.wait()
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
gate.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
gate.wait()
print(open(sys.argv[2]).read().count("<heap nr="))
"""


def ask(how: str, path) -> tuple[int, int]:
    child = subprocess.run([sys.executable, "-c", CHILD, how, path], capture_output=True, text=True, check=True)
    threads, arenas = child.stdout.split()
    return int(threads), int(arenas)


def test_frugal_processes_keep_two_arenas_and_one_thread(tmp_path):
    threads, arenas = ask("frugal", tmp_path / "frugal.xml")
    _, others = ask("not", tmp_path / "other.xml")

    assert threads == 1
    assert arenas <= 2 < others
