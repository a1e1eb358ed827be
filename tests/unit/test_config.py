"""Settings: four layers, every value knows its source, every mistake is named with the way out."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagle_eye.collector.config import load
from eagle_eye.collector.settings import OPTIONS, Settings, settings_of
from eagle_eye.native.errors import UsageError
from eagle_eye.probes.options import Option
from eagle_eye.probes.probe import Spec
from eagle_eye.probes.registry import PROBES


def spec(name, *options, default_on=True):
    return Spec(name=name, help="Help.", build=None, metrics=(), default_on=default_on, options=options)


LONG_WAIT = Option("long_wait", "duration", "10ms", "threshold", minimum="1us")
SPECS = (spec("sched", LONG_WAIT), spec("kmsg", Option("path", "path", "kmsg", "log")), spec("extra", default_on=False))


def merged(file_text=None, tmp_path=None, flags=None, environment=None, **options):
    file = None
    if file_text is not None:
        file = tmp_path / "agent.yaml"
        file.write_text(file_text)
    return load(SPECS, flags or {}, environment or {}, file=file and str(file), **options)


def source(result, key):
    return next(value.source for value in result.values if value.setting.key == key)


def refused(*args, **kwargs):
    with pytest.raises(UsageError) as error:
        merged(*args, **kwargs)
    return error.value.message


def test_defaults_are_lawful_and_say_so():
    result = merged()

    assert result.interval_ns == 500_000_000
    assert result.listen == ("127.0.0.1", 9750)
    assert result.node
    assert result.spool_limit_bytes == 64 << 20
    assert result.paths.proc == Path("/proc")
    assert result.probes["sched"].options == {"long_wait": 10_000_000}
    assert result.probes["sched"].enabled
    assert not result.probes["sched"].asked
    assert not result.probes["extra"].enabled
    assert {value.source for value in result.values} == {"default"}


def test_the_real_registry_has_lawful_defaults_and_no_name_twice():
    table = settings_of(PROBES)

    load(PROBES, {}, {})
    for names in zip(*((one.key, one.flag, one.environment) for one in table), strict=True):
        assert len(set(names)) == len(table)


def test_flags_win_over_environment_over_file_over_default(tmp_path):
    file = "interval: 1s\ncluster: filed\nnode: filed\n"
    result = merged(
        file,
        tmp_path,
        flags={"interval": "3s"},
        environment={"EAGLE_EYE_INTERVAL": "2s", "EAGLE_EYE_CLUSTER": "from-environment"},
    )

    assert (result.interval_ns, source(result, "interval")) == (3_000_000_000, "flag --interval")
    assert (result.cluster, source(result, "cluster")) == ("from-environment", "environment EAGLE_EYE_CLUSTER")
    assert (result.node, source(result, "node")) == ("filed", f"file {tmp_path}/agent.yaml")
    assert source(result, "payload") == "default"


def test_a_probe_is_asked_for_when_a_layer_switches_it_on(tmp_path):
    by_file = merged("probes: {sched: {enabled: true, long_wait: 3ms}}", tmp_path)
    by_flag = merged(flags={"probes.extra.enabled": True, "probes.sched.enabled": False})
    by_environment = merged(environment={"EAGLE_EYE_EXTRA": "on", "EAGLE_EYE_SCHED_LONG_WAIT": "7ms"})

    assert by_file.probes["sched"].asked
    assert by_file.probes["sched"].options["long_wait"] == 3_000_000
    assert by_flag.probes["extra"].asked
    assert not by_flag.probes["sched"].enabled
    assert not by_flag.probes["sched"].asked
    assert source(by_flag, "probes.sched.enabled") == "flag --no-sched"
    assert by_environment.probes["extra"].asked
    assert by_environment.probes["sched"].options["long_wait"] == 7_000_000


def test_the_file_may_be_named_by_the_environment(tmp_path):
    file = tmp_path / "node.yaml"
    file.write_text("cluster: blue")

    result = merged(environment={"EAGLE_EYE_CONFIG": str(file)})

    assert (result.cluster, source(result, "cluster")) == ("blue", f"file {file}")


def test_a_command_may_have_its_own_default():
    result = merged(defaults={"state_dir": "/var/lib/eagle-eye"})

    assert (result.state_dir, source(result, "state_dir")) == (Path("/var/lib/eagle-eye"), "default")


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "null", "nats:\nprobes: {sched: }\ncluster:\n"])
def test_empty_files_sections_and_values_count_as_not_given(text, tmp_path):
    assert {value.source for value in merged(text, tmp_path).values} == {"default"}


def test_an_empty_variable_counts_as_not_given():
    assert merged(environment={"EAGLE_EYE_WEB_CONFIG": "", "EAGLE_EYE_CONFIG": ""}).web_config is None


@pytest.mark.parametrize("name", ["no", "0123", "1e3", "2026-01-01", "12:30:00", "true", "0x1f"])
def test_yaml_does_not_reinterpret_names(name, tmp_path):
    assert merged(f"node: {name}", tmp_path).node == name


def test_all_problems_of_all_layers_are_told_at_once(tmp_path):
    text = "intervall: 1s\ncluster: [a]\nprobes:\n  sched: {long_wait: 5 parsecs}\n  shed: {enabled: true}\n"
    message = refused(text, tmp_path, flags={"listen": "nowhere"}, environment={"EAGLE_EYE_NOED": "x"})

    lines = message.splitlines()
    assert lines[0] == "6 settings are wrong:"
    assert "--listen: 'nowhere' is not allowed; allowed is HOST:PORT" in lines[1]
    assert lines[2].strip() == "EAGLE_EYE_NOED: unknown environment variable; did you mean EAGLE_EYE_NODE?"
    assert f"{tmp_path}/agent.yaml:1: intervall: unknown key; did you mean interval?" in lines[3]
    assert "agent.yaml:2: cluster: a list is not allowed here; allowed is text" in lines[4]
    assert "agent.yaml:4: probes.sched.long_wait: '5 parsecs' is not allowed; allowed is a duration" in lines[5]
    assert "agent.yaml:5: probes.shed: unknown key; did you mean probes.sched" in lines[6]


def test_a_file_full_of_mistakes_gives_a_bounded_message(tmp_path):
    message = refused("\n".join(f"key_{n}: 1" for n in range(5000)), tmp_path)

    assert message.startswith("more than 20 settings are wrong")
    assert len(message.splitlines()) == 21


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b", "must be a mapping"),
        ("interval: 1s\ninterval: 2s", "agent.yaml:2: interval: given twice"),
        ("nats: {user: a}\nnats: {port: 1}", "agent.yaml:2: nats: given twice"),
        ("nats: {port: 1}\nnats.port: 2", "agent.yaml:2: nats.port: given twice"),
        ("nats: nats://x", "nats: a mapping is expected here, with keys such as url"),
        ("a: &x [1]\nb: *x", "aliases are not supported in line 2"),
        ("interval: {{{{{{{{{{1}}}}}}}}}}", "nested deeper"),
        ("[" * 60000, "nested deeper"),
        ("interval: !!python/object/apply:os.system [id]", "interval: a list is not allowed"),
        ("? [a, b]\n: 1", "unknown key"),
        ("a: 1\n---\nb: 2", "not plain YAML"),
        ("a: 'b", "not plain YAML"),
        ('a: "\\UFFFFFFFF"', "not plain YAML"),
        ("x: y\n" * 20000, "larger than 65536 bytes"),
        ("no\x07de: 1", "not plain YAML"),
    ],
)
def test_files_that_are_no_plain_mapping_are_refused(text, complaint, tmp_path):
    assert complaint in refused(text, tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin1.yaml").write_bytes(b"cluster: caf\xe9")

    assert refused(environment={"EAGLE_EYE_CONFIG": "/nowhere/x.yaml"}) == "/nowhere/x.yaml: No such file or directory"
    assert "Is a directory" in refused(environment={"EAGLE_EYE_CONFIG": str(tmp_path)})
    assert "not UTF-8" in refused(environment={"EAGLE_EYE_CONFIG": f"{tmp_path}/latin1.yaml"})
    assert "larger than" in refused(environment={"EAGLE_EYE_CONFIG": "/dev/zero"})


def test_variables_of_a_kubernetes_service_are_not_ours():
    service = {
        "EAGLE_EYE_SERVICE_HOST": "10.0.0.1",
        "EAGLE_EYE_SERVICE_PORT": "9750",
        "EAGLE_EYE_SERVICE_PORT_METRICS": "9750",
        "EAGLE_EYE_PORT": "tcp://10.0.0.1:9750",
        "EAGLE_EYE_PORT_9750_TCP": "tcp://10.0.0.1:9750",
        "EAGLE_EYE_PORT_9750_TCP_ADDR": "10.0.0.1",
        "EAGLE_EYE_NATS_PORT": "tcp://10.0.0.2:4222",
        "EAGLE_EYE_NATS_SERVICE_HOST": "10.0.0.2",
    }

    assert merged(environment=service).nats.port == 4222
    assert merged(environment={**service, "EAGLE_EYE_NATS_PORT": "0"}).nats.port == 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"nats.user": "a"}, "nats.user (flag --nats-user) also needs nats.password_file"),
        ({"nats.tls_key": "/k"}, "nats.tls_key (flag --nats-tls-key) also needs nats.tls_cert"),
        ({"nats.nkey": "/k", "nats.token_file": "/t"}, "only one way to log in to NATS"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags, complaint):
    assert complaint in refused(flags=flags)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://user:secret@host:4222", "nats://user:***@host:4222"),
        ("nats://t0ken@host", "nats://***@host"),
        ("u:secret@a:1,tls://b:secret@c", "nats://u:***@a:1,tls://b:***@c"),
        ("nats://host", "nats://host"),
    ],
)
def test_passwords_in_urls_are_never_shown(url, shown):
    result = merged(flags={"nats.url": url})

    assert next(value.show() for value in result.values if value.setting.key == "nats.url") == shown


@pytest.mark.parametrize(
    "url",
    [
        "nats://u:secret/x@host",
        "nats://u:sec@ret@host",
        "nats://u:secret@host:65536",
        "nats://u:se,cret@host/x",
        "u:secret@ho st",
        "x://u:secret@h",
    ],
)
def test_a_refused_url_does_not_show_its_password(url):
    message = refused(flags={"nats.url": url})

    assert "sec" not in message
    assert "cret" not in message
    assert "--nats" in message


def test_values_are_shown_as_a_user_writes_them():
    shown = {value.setting.key: value.show() for value in merged().values}

    assert shown["interval"] == "500ms"
    assert shown["spool_limit"] == "64MiB"
    assert shown["listen"] == "127.0.0.1:9750"
    assert shown["probes.extra.enabled"] == "false"
    assert shown["nats.url"] == ""


KEYS = [one.key for one in settings_of(SPECS)]
NAMES = [one.environment for one in settings_of(SPECS)]
scalars = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.sampled_from(
        ["10ms", "true", "h:1", "[::1]:0", "nats://a:b@c", "json", "1MiB", "*a", "&a 1", "!!int x", "{", "[]"]
    ),
)
yaml_like = st.lists(st.tuples(st.sampled_from([*KEYS, "nats", "probes", "x"]), scalars), max_size=6).map(
    lambda pairs: "\n".join(f"{key}: {value}" for key, value in pairs)
)


@settings(deadline=None)
@given(
    text=st.one_of(
        yaml_like.map(str.encode),
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")),
    ),
    flags=st.dictionaries(st.sampled_from(KEYS), st.one_of(scalars, st.booleans()), max_size=3),
    environment=st.dictionaries(
        st.one_of(st.sampled_from(NAMES), st.text(max_size=9).map("EAGLE_EYE_".__add__)), scalars
    ),
)
def test_no_input_makes_anything_but_settings_or_a_usage_error(text, flags, environment, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text)
    environment.pop("EAGLE_EYE_CONFIG", None)
    try:
        result = load(SPECS, flags, environment, file=str(file))
    except UsageError:
        return
    assert isinstance(result, Settings)
    for value in result.values:
        assert value.show().isprintable()


def test_every_option_says_what_it_is_in_a_short_line():
    for option in OPTIONS:
        assert option.help
        assert not option.help.endswith(".")
        assert len(option.help) <= 75, option.name


def test_what_the_plugin_of_an_engine_is_told_by_is_no_mistake():
    settings = merged(environment={"EAGLE_EYE_DISABLE": "1", "EAGLE_EYE_NATS_CA": "/etc/ca.pem"})

    assert settings.node
