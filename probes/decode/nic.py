"""Network cards: mlx5 in full, the links, time-outs and resets of other drivers, InfiniBand ports, bonds."""

from __future__ import annotations

from functools import cache

from msgspec import structs

from . import scan
from .family import Decoded, Family
from .shape import Shape, match_first, shapes_of, triggers_of

_MLX5 = frozenset({"mlx5_core", "mlx5_ib"})
# Drivers of network cards; the lines of others are not about a network.
_DRIVERS = frozenset(
    ("bnxt_en", "bnx2x", "ice", "i40e", "iavf", "ixgbe", "ixgbevf", "igb", "igc", "e1000e", "hns3", "hinic", "hinic3",
     "irdma", "ena", "efa", "mlx4_core", "mlx4_en", "qede", "sfc", "cxgb4", "nfp", "ionic", "fm10k", "hfi1", "tg3",
     "r8169", "atlantic", "gve", "idpf", "be2net", "enic", "liquidio", "fbnic", "virtio_net", "vmxnet3", "mana")
)  # fmt: skip


def _name(driver: str) -> str:
    return "nic.mlx5" if driver in _MLX5 else f"nic.{driver}"


@cache
def _shapes(driver: str) -> tuple[Shape, ...]:
    """Those of the driver, then those of all."""
    return (*shapes_of(_name(driver)), *shapes_of("nic"))


def parse_mlx5(text: str) -> Decoded | None:
    if text.startswith("infiniband mlx5_"):
        port, _, rest = text.removeprefix("infiniband ").partition(": ")
        return _of("mlx5_ib", "", rest, {"infiniband_device": port[:32]})
    driver, device, rest = scan.device_message(text)
    return _of(driver, device, rest, {}) if driver in _MLX5 else None


def parse_other(text: str) -> Decoded | None:
    driver, device, rest = scan.device_message(text)
    if driver in _DRIVERS:
        return _of(driver, device, rest, {})
    return _watchdog(text) or _bond(text) or _infiniband(text)


def _of(driver: str, device: str, rest: str, fields: dict[str, object]) -> Decoded | None:
    """`rest` is what stands behind driver and address; the interface and the place in the source may come first."""
    interface, rest = _interface(rest)
    place, rest = _place(rest)
    found = match_first(_shapes(driver), rest)
    if found is None:
        return None
    fields = {**scan.known(driver=driver, interface=interface, **place), **fields, **found.fields}
    return structs.replace(found, family=_name(driver), device=device, fields=fields)


def _interface(text: str) -> tuple[str, str]:
    """`enp65s0f0np0: Link up`, also with `(unregistered net_device) (uninitialized): ` in front."""
    name, colon, rest = text.partition(": ")
    if colon and name.startswith("(unregistered net_device)"):
        return "", rest
    plain = colon and name.isascii() and len(name) <= 15 and name.replace("_", "").replace(".", "").isalnum()
    # Words that messages begin with; an interface's name has a lower-case letter first.
    return (name, rest) if plain and name[0].islower() else ("", text)


def _place(text: str) -> tuple[dict[str, object], str]:
    """`mlx5_cmd_out_err:838:(pid 1441871): ACCESS_REG(0x805) …`."""
    function, _, rest = text.partition(":")
    line, mark, rest = rest.partition(":(pid ")
    pid, closed, said = rest.partition("): ")
    if not (mark and closed and line.isdigit() and pid.isdigit() and function.isidentifier()):
        return {}, text
    return {"function": function[:64], "pid": scan.integer(pid)}, said


def _watchdog(text: str) -> Decoded | None:
    """`NETDEV WATCHDOG: enp65s0f0 (mlx5_core): transmit queue 5 timed out [5012 ms]`."""
    rest = text.removeprefix("NETDEV WATCHDOG: ")
    interface, mark, rest = rest.partition(" (")
    driver, closed, said = rest.partition("): transmit queue ")
    queue = scan.integer(said)
    if not (text.startswith("NETDEV WATCHDOG: ") and mark and closed and driver.isidentifier()) or queue is None:
        return None
    blocked_ms = scan.integer_after(said, "timed out ")
    blocked_seconds = None if blocked_ms is None else blocked_ms / 1000
    fields = scan.known(driver=driver, interface=interface[:32], queue=queue, blocked_seconds=blocked_seconds)
    return Decoded(_name(driver), "transmit_timeout", "", fields)


def _bond(text: str) -> Decoded | None:
    """`bond0: (slave eth0): link status definitely down, disabling slave`."""
    bond, colon, rest = text.removeprefix("bonding: ").partition(": ")
    found = match_first(shapes_of("nic.bonding"), rest) if colon and " " not in bond else None
    return found and structs.replace(found, fields={"bond": bond[:32], **found.fields})


def _infiniband(text: str) -> Decoded | None:
    """`ib0: link down`."""
    port, _, rest = text.partition(": ")
    if not port.startswith(("ib", "hfi1_", "mlx4_")) or not port.replace("_", "").isalnum() or not port.isascii():
        return None
    found = match_first(_links(), rest)
    return found and structs.replace(found, family="nic.infiniband", fields={"interface": port[:32]})


@cache
def _links() -> tuple[Shape, ...]:
    return tuple(shape for shape in shapes_of("nic") if shape.code == "link_down")


MLX5 = Family("nic.mlx5", ("NETDEV WATCHDOG: ", *triggers_of("nic", "nic.mlx5")), parse_mlx5)
OTHERS = Family("nic", ("NETDEV WATCHDOG: ", *triggers_of("nic", "nic.")), parse_other)
