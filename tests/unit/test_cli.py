"""The command line: a table of contents, errors with the way out, exit codes, and a quick start."""

import os
import re
import resource
import subprocess
import sys

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eagle_eye.__main__ import COMMANDS, main
from eagle_eye.collector.commands.version import facts
from eagle_eye.probes import model
from eagle_eye.probes.registry import PROBES

HEAVY = ("numpy", "yaml", "rich", "aiohttp", "nats", "structlog", "pyroute2", "prometheus_client", "msgspec")


def command(*words, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EAGLE_EYE_")}
    options["env"] = {**environment, **options.pop("environment", {})}
    options = {"capture_output": True, "text": True, "check": False, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-m", "eagle_eye", *words], **options)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_80_columns_and_ends_with_examples(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code = main([*([name] if name else []), "--help"])
    text = capsys.readouterr().out

    assert code == 0
    assert max(map(len, text.splitlines())) < 80
    assert "examples:" in text
    assert text.rstrip().splitlines()[-1].startswith("  eagle-eye") or "eagle-eye" in text.rstrip().splitlines()[-1]


def test_the_front_page_lists_every_command(capsys):
    assert main([]) == 2
    text = capsys.readouterr().out

    for name, one in COMMANDS.items():
        assert re.search(rf"^ +{name} +{re.escape(one.help)}$", text, re.MULTILINE)


def test_every_probe_has_its_flags_in_run_and_agent(capsys):
    for name in ("run", "agent", "check", "config"):
        main([name, "--help"])
        text = capsys.readouterr().out
        for spec in PROBES:
            assert f"--{spec.name}, --no-{spec.name}" in text
            for option in spec.options:
                assert re.search(rf"--{spec.name}-{option.name.replace('_', '-')}[ ,]", text)


def test_version_tells_what_decides_what_works(capsys):
    assert main(["--version"]) == 0
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())

    assert lines["kernel"] == os.uname().release
    assert lines["python"] == sys.version.split()[0]
    assert re.fullmatch(r"yes \(\d+\.\d MiB\)|no", lines["BTF"])
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?|no", lines["libbpf"])
    assert set(lines) == {"eagle-eye", "kernel", "BTF", "libbpf", "python"}


def test_version_without_btf_says_no(tmp_path):
    assert facts(tmp_path / "vmlinux")["BTF"] == "no"


def test_version_and_front_page_load_nothing_heavy():
    script = "import sys; from eagle_eye.__main__ import main; main(sys.argv[1:]); print(*sys.modules)"
    for word in ("--version", "--help", "rnu"):
        done = subprocess.run([sys.executable, "-c", script, word], capture_output=True, text=True, check=True)
        assert not set(done.stdout.splitlines()[-1].split()) & set(HEAVY), word


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        ("rnu", "invalid choice: 'rnu'", "eagle-eye --help"),
        ("config --intervall 1s", "arguments: --intervall 1s; did you mean --interval?", "eagle-eye config --help"),
        ("config --no-shed=1", "arguments: --no-shed=1; did you mean --no-sched", "eagle-eye config --help"),
        ("config --interval 5h", "--interval: '5h' is not allowed; allowed is a duration", "eagle-eye config"),
        ("run -d soon", "argument -d/--duration: 'soon' is not allowed; allowed is a duration", "run --help"),
        ("config --config /nowhere.yaml", "/nowhere.yaml: No such file", "name a readable file"),
        ("schema Snapshto", "no type is called 'Snapshto'", "Snapshot"),
        ("agent", "no NATS server is named", "--nats URL"),
        ("run --nats nats://u:hid@h:1 --nats-port 0", "--nats names another: nats://u:***@h:1", "leave out"),
        ("config --node a\x1b[31mb", "'a\\x1b[31mb' is not allowed", "eagle-eye config"),
    ],
)
def test_usage_errors_name_the_mistake_and_the_way_out(words, message, remedy, capsys):
    code = main(words.split(" "))
    said = capsys.readouterr()
    first, second = said.err.splitlines()

    assert code == 2
    assert said.out == ""
    assert first.startswith("eagle-eye: ")
    assert message in first
    assert second.startswith("  try: ")
    assert remedy in second
    assert "hid@" not in said.err


flags = st.sampled_from(
    ["--interval", "--nats", "--listen", "--no-sched", "--sched", "-j", "--", "--config", "-d", "=", "@x"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from(["config", "schema", "--version", ""]),
    words=st.lists(st.one_of(flags, st.text()), max_size=4),
)
def test_no_words_make_a_traceback(command, words, capsys):
    assert main([command, *words]) in (0, 1, 2)
    said = capsys.readouterr()

    assert "Traceback" not in said.err
    assert said.err.replace("\n", "").isprintable()


def test_an_error_of_the_system_names_the_file(capsys, monkeypatch):
    def refused(arguments):
        raise PermissionError(13, "Permission denied", "/var/lib/eagle-eye")

    monkeypatch.setattr("eagle_eye.collector.commands.schema.run", refused)

    assert main(["schema"]) == 1
    assert capsys.readouterr().err == "eagle-eye: /var/lib/eagle-eye: Permission denied\n"


def test_an_interrupt_is_quiet_and_130(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("eagle_eye.collector.commands.schema.run", interrupted)

    assert main(["schema"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["config", "-j"], ["schema", "Snapshot"], ["check"], ["--version"]])
def test_a_reader_that_goes_away_is_no_error_message(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = command(*words, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert done.stderr == ""
    assert done.returncode == 1


def test_config_tells_values_and_sources(tmp_path):
    file = tmp_path / "node.yaml"
    file.write_text("cluster: blue\nprobes: {sched: {long_wait: 3ms}}\n")
    done = command(
        "config", "-j", "--config", str(file), "--no-kmsg", "--nats", "nats://u:hidden@h:4222",
        environment={"EAGLE_EYE_INTERVAL": "1s"},
    )  # fmt: skip
    rows = {row["key"]: row for row in map(msgspec.json.decode, done.stdout.splitlines())}

    assert done.returncode == 0
    assert (rows["interval"]["value"], rows["interval"]["source"]) == ("1s", "environment EAGLE_EYE_INTERVAL")
    assert (rows["cluster"]["value"], rows["cluster"]["source"]) == ("blue", f"file {file}")
    assert rows["probes.sched.long_wait"]["value"] == "3ms"
    assert (rows["probes.kmsg.enabled"]["value"], rows["probes.kmsg.enabled"]["source"]) == ("false", "flag --no-kmsg")
    assert rows["nats.url"]["value"] == "nats://u:***@h:4222"
    assert rows["web_config"]["value"] is None
    assert "hidden" not in done.stdout


def test_config_columns_are_key_value_source(capsys):
    assert main(["config", "--listen", "[::1]:0"]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]

    assert ["listen", "[::1]:0", "flag --listen"] in rows
    assert all(len(row) == 3 for row in rows)


@pytest.mark.parametrize("name", model.type_names)
def test_schema_of_every_type_is_a_schema(name, capsys):
    assert main(["schema", name.lower()]) == 0
    Draft202012Validator.check_schema(msgspec.json.decode(capsys.readouterr().out))


def test_schema_accepts_what_is_published_and_refuses_what_is_not(capsys):
    main(["schema", "Event"])
    validator = Draft202012Validator(msgspec.json.decode(capsys.readouterr().out))
    event = model.Event(
        id="b:kmsg:1", kind="kmsg.record", at_ns=1, wall_offset_ns=2, node="n", boot_id="b", entity="host"
    )

    published = msgspec.json.decode(msgspec.json.encode(event))
    assert validator.is_valid(published)
    assert published["schema"] == model.SCHEMA_VERSION
    assert published["severity"] == "info"
    assert not validator.is_valid({**published, "at_ns": "1"})
    assert not validator.is_valid({**published, "severity": "bad"})


def test_schema_lists_every_type_with_one_sentence(capsys):
    main(["schema"])
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines] == list(model.type_names)
    assert all(line.endswith(".") for line in lines)


def test_version_is_quick():
    def cpu_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command("--version")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # About 50 ms; CPU time and the least of five, for the neighbours' sake.
    assert min(cpu_seconds() for _ in range(5)) < 0.15
