"""The regular expressions by which peers find faults in kernel logs, as their sources have them.

gpud (leptonai) and NVSentinel (NVIDIA) are Go and Python, node-problem-detector (Kubernetes) is Go; each tries its
expressions on every line. `(?i)` and anchors are theirs.
"""

from __future__ import annotations

GPUD = (
    r"NVRM: Xid \(((?:PCI:)?[0-9a-fA-F:]+)\).*?: (\d+),",
    r"NVRM: Xid \(PCI:([0-9a-fA-F:]+)\): (\d+)(?:, pid=(\d+), name=([^,]+))?, ([A-Z_]+(?:/[A-Z_]+)?)\s+"
    r"(Nonfatal|Fatal)\s+(XC[01])\s+(i\d+)\s+Link\s+(-?\d+)\s+\((0x[0-9a-f]+)",
    r"SXid.*?: (\d+),",
    r"(?:INFO: )?task ([^:]+:[\d]+).+blocked for more than \d+ seconds",
    r"soft lockup - CPU#\d+ stuck for \d+s! \[([^:]+:[\d]+)\]",
    r"md/raid.*: Disk failure on .* detected, failing array",
    r".*Remounting filesystem read-only",
    r"block nvme.*: no available path - failing I/O",
    r"nvme nvme[0-9]+: I/O .* timeout, reset controller",
    r"nvme nvme[0-9]+: Disabling device after reset failure",
    r"attempt to access beyond end of device",
    r"Buffer I/O error on dev [^ ]+, logical block [0-9]+",
    r"I/O error while writing superblock",
    r"VFS: file-max limit \d+ reached",
    r"Kernel [Pp]anic",
    r"CPU: (\d+) PID: (\d+) Comm: (\S+)",
    r"nfs: server ([^ ]+) not responding",
    r"nfs4_reclaim_open_state: Lock reclaim failed",
    r"Out of memory:",
    r"(?i)\b(invoked|triggered) oom-killer\b",
    r"oom-kill:constraint=",
    r"Memory cgroup out of memory",
    r"segfault at.*in libnccl\.so",
    r"Detected insufficient power on the PCIe slot \(([0-9]+W)\)",
    r"Port module event.*High Temperature",
    r"mlx5_cmd_out_err.*ACCESS_REG.*failed",
    r"knvlinkUpdatePostRxDetectLinkMask_\w+: Failed to update Rx Detect Link mask!",
    r"ERROR detected invalid context, skipping further processing",
)

NVSENTINEL = (
    r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)(?:, pid=(\d+))?(?:, name=([^,]+))?(?:, Ch ([0-9a-fA-F]+))?",
    r"nvidia-nvswitch(\d+): SXid \(PCI:([0-9a-fA-F:.]+)\): (\d+), (Fatal|Non-fatal), Link (\d+) (.+)",
    r"mlx5_core.*timeout\. Will cause a leak of a command resource",
    r"mlx5_core.*device's health compromised.*reached miss count",
    r"mlx5_core.*unrecoverable hardware error",
    r"NETDEV WATCHDOG.*mlx5_core.*transmit queue.*timed out",
    r"mlx5_core.*Detected insufficient power on the PCIe slot",
    r"mlx5_core.*High Temperature",
    r"mlx5_core.*ACCESS_REG.*failed",
    r"Port module event.*Cable unplugged",
    r"NVRM: GPU at PCI:[0-9a-fA-F:.]+: (GPU-[0-9a-f-]+)",
    r"GPU has fallen off the bus",
)

NODE_PROBLEM_DETECTOR = (
    r"Killed process \d+ (.+) total-vm:\d+kB, anon-rss:\d+kB, file-rss:\d+kB.*",
    r"task [\S ]+:\w+ blocked for more than \w+ seconds\.",
    r"unregister_netdevice: waiting for \w+ to become free. Usage count = \d+",
    r"BUG: unable to handle kernel NULL pointer dereference at .*",
    r"divide error: 0000 \[#\d+\] SMP",
    r"EXT4-fs error .*",
    r"EXT4-fs warning .*",
    r"Buffer I/O error .*",
    r"XFS .* Shutting down filesystem.?",
    r"CE memory read error .*",
    r".*\[Hardware Error\]: event severity: (corrected|recoverable|fatal)$",
    r"Remounting filesystem read-only",
)

PEERS = {"gpud": GPUD, "NVSentinel": NVSENTINEL, "node-problem-detector": NODE_PROBLEM_DETECTOR}
