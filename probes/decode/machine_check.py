"""Errors of processors and memory as the kernel reports them: x86 machine checks, EDAC, pages taken out of use."""

from __future__ import annotations

from . import scan
from .cper import join_sections, parse_section
from .family import Decoded, Family
from .mca import describe_status

_NAME = "cpu.memory.mce_edac"
_MARK = "[Hardware Error]: "
_KINDS = (("Machine Check Exception:", True), ("Machine Check:", False), ("Machine check events logged", False))


def _machine_check(text: str) -> Decoded | None:
    """`CPU 12: Machine Check: 0 Bank 7: cc00008000010092`."""
    head, mark, rest = text.partition(": Machine Check")
    bank = scan.integer_after(rest, " Bank ")
    status = scan.hexadecimal(rest.rpartition(": ")[2]) if bank is not None else None
    if not mark or status is None:
        return None
    fields = scan.known(
        cpu=scan.integer_after(head, "CPU "),
        bank=bank,
        global_status=scan.hexadecimal_after(rest, ": "),
        exception=rest.startswith(" Exception"),
        status=status,
        **describe_status(status),
    )
    return Decoded(_NAME, f"mce_{fields['severity']}", "", fields, incomplete=True)


def _amd_status(text: str) -> Decoded | None:
    """`CPU:2 (17:31:0) MC16_STATUS[Over|CE|MiscV|...]: 0xdc2041000000011b`."""
    head, mark, rest = text.partition("_STATUS[")
    status = scan.hexadecimal_after(rest, "]: ")
    if not mark or status is None:
        return None
    described = describe_status(status)
    described.pop("corrected_count", None)  # AMD has flags there
    fields = scan.known(
        cpu=scan.integer_after(head, "CPU:"),
        bank=scan.integer(head.rpartition("MC")[2]),
        status=status,
        **described,
    )
    if "Deferred" in rest.partition("]")[0]:  # wrong data that nobody has used yet
        fields.update(severity="uncorrected", deferred=True)
    return Decoded(_NAME, f"mce_{fields['severity']}", "", fields, incomplete=True)


def _detail(text: str) -> Decoded | None:
    """The records behind a machine check: `TSC 0 ADDR 7f12 MISC 2140160286`, `PROCESSOR 0:406f1 TIME …`."""
    fields = scan.known(
        address=_word_hex(text, "ADDR ") if "ADDR " in text else scan.hexadecimal_after(text, "Error Addr: "),
        misc=_word_hex(text, "MISC "),
        syndrome=_word_hex(text, "SYND ") if "SYND " in text else scan.hexadecimal_after(text, "Syndrome: "),
        ip_id=_word_hex(text, "IPID ") if "IPID " in text else scan.hexadecimal_after(text, "IPID: "),
        socket=scan.integer_after(text, " SOCKET "),
        apic=_word_hex(text, " APIC "),
        microcode=_word_hex(text, "microcode "),
        cpuid=_word_hex(scan.after(text, "PROCESSOR "), ":"),
        instruction=scan.after(text, "RIP ")[:120] if text.startswith("RIP ") else "",
        error=text[:160] if "Error Code: " in text else "",
    )
    return Decoded(_NAME, "", "", fields, incomplete=True) if fields else None


def _word_hex(text: str, mark: str) -> int | None:
    return scan.hexadecimal(scan.word_after(text, mark)) if mark in text else None


def _summary(text: str) -> Decoded | None:
    if text.startswith("Machine check events logged"):
        return Decoded(_NAME, "mce_logged")
    if text.startswith("Machine check: "):
        return Decoded(_NAME, "mce_fatal", "", {"reason": text.removeprefix("Machine check: ")[:200]})
    return None


def _hardware_error(text: str) -> Decoded | None:
    prefix, mark, rest = text.partition(_MARK)
    if not mark or prefix not in ("", "mce: "):
        return None
    for read in (_machine_check, _amd_status, _summary, _detail):
        found = read(rest)
        if found is not None:
            return found
    return None


def _edac(text: str) -> Decoded | None:
    """`EDAC MC0: 1 CE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x1d4aa0 …)`."""
    head, _, rest = text.partition(": ")
    count = scan.integer(rest)
    kind, _, said = rest.removeprefix(f"{count} ").lstrip().partition(" ")
    unit = head.removeprefix("EDAC ")
    if unit == head or not unit.startswith(("MC", "DEVICE")) or kind.rstrip(":") not in ("CE", "UE"):
        return None
    fields = {
        **scan.known(controller=unit[:32], count=1 if count is None else count, **_edac_places(rest)),
        **_edac_words(said),
    }
    return Decoded(_NAME, f"edac_{kind.rstrip(':').lower()}", "", fields)


def _edac_words(said: str) -> dict[str, object]:
    error, on, where = said.partition("on ") if said.startswith("on ") else said.partition(" on ")
    label = scan.between(said, 'label "', '"') or scan.between(said, 'labels "', '"')
    if on and not label:
        label = where.partition(" (")[0]
    return scan.known(error=error.strip()[:120] if on else "", label=label[:120])


def _edac_places(text: str) -> dict[str, object]:
    colon = {name: scan.integer_after(text, f"{name}:") for name in ("channel", "slot", "csrow", "socket", "rank")}
    places = {name: value for name, value in colon.items() if value is not None}
    page = text.replace("page 0x", "page:0x").replace("offset 0x", "offset:0x")
    return {
        **places,
        "page_frame": scan.hexadecimal_after(page, "page:"),
        "offset_bytes": scan.hexadecimal_after(page, "offset:"),
        "grain_bytes": scan.integer_after(text, "grain:"),
        "row": scan.integer_after(text, " row "),
    }


def _memory_failure(text: str) -> Decoded | None:
    """`Memory failure: 0x7f3a: recovery action for dirty LRU page: Recovered`, and killing those that use the page."""
    page, _, said = text.removeprefix("Memory failure: ").partition(": ")
    page_frame = scan.hexadecimal(page)
    if not text.startswith("Memory failure: ") or page_frame is None:
        return None
    victim = scan.after(said, "Killing ") or scan.after(said, "Sending SIGBUS to ")
    process, _, pid = victim.partition(" due to ")[0].rpartition(":")
    fields = scan.known(
        page_frame=page_frame,
        page_kind=scan.between(said, "recovery action for ", ": "),
        result=scan.word(said.rpartition(": ")[2]) if "recovery action" in said else "",
        process=process[:32],
        pid=scan.integer(pid),
    )
    informs = "result" not in fields and "process" not in fields
    return Decoded(_NAME, "" if informs else "memory_failure", "", fields)


def _page_offline(text: str) -> Decoded | None:
    for mark in ("isolate page: 0x", "Soft-offlining pfn: 0x", "soft offline: 0x", "Soft offlining pfn 0x"):
        page = scan.hexadecimal_after(text, mark)
        if page is not None:
            return Decoded(_NAME, "page_offline", "", {"page_frame": page})
    return None


def _storm(text: str) -> Decoded | None:
    if "CMCI storm detected" in text:
        return Decoded(_NAME, "cmci_storm")
    return Decoded(_NAME, "cmci_storm", recovery=True) if "CMCI storm subsided" in text else None


def _in_user_access(text: str) -> Decoded | None:
    address = scan.hexadecimal_after(text, "Uncorrected hardware memory error in user-access at ")
    return Decoded(_NAME, "mce_uncorrected", "", {"address": address}) if address is not None else None


def _throttle(text: str) -> Decoded | None:
    """`mce: CPU0: Package temperature above threshold, cpu clock throttled (total events = 1)`."""
    text = text.removeprefix("mce: ")
    cpu, place = scan.integer_after(text, "CPU"), scan.word_after(text, ": ").lower()
    if not text.startswith("CPU") or cpu is None or place not in ("core", "package"):
        return None
    if "temperature above threshold" in text:
        events = scan.integer_after(text, "total events = ")
        return Decoded(_NAME, "cpu_thermal_throttle", "", scan.known(cpu=cpu, place=place, events=events))
    if "temperature/speed normal" in text or "temperature is normal" in text:
        return Decoded(_NAME, "cpu_thermal_throttle", "", {"cpu": cpu, "place": place}, recovery=True)
    return None


_READERS = (
    ("[Hardware Error]: ", _hardware_error), ("EDAC ", _edac), ("Memory failure: ", _memory_failure),
    ("isolate page: ", _page_offline), ("offlin", _page_offline), ("soft offline: ", _page_offline),
    ("CMCI storm", _storm), ("user-access", _in_user_access), ("temperature", _throttle),
)  # fmt: skip


def parse(text: str) -> Decoded | None:
    found = parse_section(text)
    if found is not None:
        return found
    for mark, read in _READERS:
        if mark in text:
            found = read(text)
            if found is not None:
                return found
    return None


def join(earlier: Decoded, later: Decoded) -> Decoded | None:
    if "record" in earlier.fields or "record" in later.fields:
        return join_sections(earlier, later)
    if not (earlier.incomplete and later.incomplete) or later.code or not earlier.code:
        return None
    if set(earlier.fields) & set(later.fields):
        return None
    whole = "cpuid" in later.fields
    return Decoded(_NAME, earlier.code, "", {**earlier.fields, **later.fields}, incomplete=not whole)


FAMILY = Family(
    _NAME,
    ("[Hardware Error]: ", "BERT: Error records", "EDAC ", "Memory failure: ", "isolate page: ", "offlining pfn",
     "soft offline: ", "CMCI storm", "error in user-access at", "temperature above threshold",
     "temperature/speed normal", "temperature is normal"),
    parse,
    join,
)  # fmt: skip
