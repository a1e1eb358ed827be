"""Boots a kernel under QEMU's own CPU (no KVM needed) with the machine's files as its root, read-only."""

from __future__ import annotations

import lzma
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packages import Kernel

MODULES = ("virtio_pci", "virtiofs")
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
BUSYBOX = Path("/usr/bin/busybox")
MEMORY_MB = 1024
CPUS = 2
# Below the hard limit of containers and small machines; the default asks for a million.
OPEN_FILES = 16384

INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /proc /root
while read -r module; do $bb insmod /modules/$module; done < /modules/order
$bb mount -t virtiofs -o ro rootfs /root || $bb reboot -f
$bb mount -t proc proc /root/proc
$bb mount -t sysfs sysfs /root/sys
$bb mount -t devtmpfs devtmpfs /root/dev
$bb mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$bb mount -t bpf bpf /root/sys/fs/bpf
$bb mount -t tracefs tracefs /root/sys/kernel/tracing
for folder in tmp run var/tmp; do $bb mount -t tmpfs tmpfs /root/$folder; done
$bb chroot /root {command} > /root/dev/ttyS1 2>&1
$bb reboot -f
"""


def boot(kernel: Kernel, command: list[str], *, deadline_s: float) -> tuple[list[str], str]:
    """Runs `command` in a guest; gives the lines that it wrote and the guest's console."""
    with tempfile.TemporaryDirectory(prefix="eagle-eye-kernel-") as folder, virtiofs(Path(folder)) as socket:
        home = Path(folder)
        initramfs = make_initramfs(kernel, command, home)
        output, console = home / "output", home / "console"
        output.touch()
        guest = subprocess.Popen(
            qemu_command(kernel, initramfs, socket, output, console), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, errors = guest.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            errors = b"the guest did not end in time"
        finally:
            guest.kill()
            guest.wait()
        said = console.read_text(errors="replace") if console.exists() else ""
        return output.read_text(errors="replace").splitlines(), said + errors.decode(errors="replace")


def qemu_command(kernel: Kernel, initramfs: Path, socket: Path, output: Path, console: Path) -> list[str]:
    # One thread for all CPUs: with more, one may still run code that the guest's kernel has just patched, and oops.
    arguments = "console=ttyS0 panic=-1 random.trust_cpu=on loglevel=4"
    return [
        *("nice", "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", str(CPUS)),
        *("-m", str(MEMORY_MB), "-nographic", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-object", f"memory-backend-memfd,id=mem,size={MEMORY_MB}M,share=on", "-numa", "node,memdev=mem"),
        *("-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=rootfs"),
        *("-serial", f"file:{console}", "-serial", f"file:{output}"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs), "-append", arguments),
    ]


@contextmanager
def virtiofs(home: Path) -> Iterator[Path]:
    socket = home / "virtiofs.sock"
    options = ["source=/", "cache=always", "sandbox=chroot", "no_posix_lock", "no_flock"]
    command = [VIRTIOFSD, f"--socket-path={socket}", f"--rlimit-nofile={OPEN_FILES}"]
    with (home / "virtiofsd.log").open("wb") as log:
        server = subprocess.Popen([*command, *(word for o in options for word in ("-o", o))], stdout=log, stderr=log)
    try:
        wait_for(socket, server, home / "virtiofsd.log")
        yield socket
    finally:
        server.terminate()
        server.wait()


def wait_for(socket: Path, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if socket.exists():
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"virtiofsd did not start: {log.read_text()}")


def make_initramfs(kernel: Kernel, command: list[str], home: Path) -> Path:
    root = home / "initramfs"
    for folder in ("bin", "modules", "dev"):
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    (root / "modules/order").write_text("".join(f"{copy_module(path, root)}\n" for path in module_paths(kernel)))
    init = root / "init"
    init.write_text(INIT.format(command=shlex.join(command)))
    init.chmod(0o755)
    image = home / "initramfs.cpio"
    with image.open("wb") as archive:
        names = "\n".join(str(path.relative_to(root)) for path in root.rglob("*")).encode()
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=archive, check=True)
    return image


def module_paths(kernel: Kernel) -> list[Path]:
    """In the order in which they load."""
    found: dict[Path, None] = {}
    for module in MODULES:
        listing = subprocess.run(
            ["modprobe", "-d", kernel.root, "-S", kernel.release, "--show-depends", module],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found.update((Path(line.split()[1]), None) for line in listing.splitlines() if line.startswith("insmod"))
    return list(found)


def copy_module(path: Path, root: Path) -> str:
    """Unpacked, since busybox knows no compressed modules."""
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    target = root / "modules" / path.name.removesuffix(".xz")
    target.write_bytes(content)
    return target.name
