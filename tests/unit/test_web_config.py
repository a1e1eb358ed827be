"""The web configuration file: the toolkit's own cases, refusals that name the key, and hostile bytes."""

from __future__ import annotations

import ssl

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from eagle_eye.collector.web_config import MAX_BYTES, WebConfig, parse_web_config, read_web_config
from eagle_eye.collector.web_tls import is_allowed_client, make_tls_context
from eagle_eye.native.errors import UsageError

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


def test_an_empty_file_is_plain_http_for_all():
    for content in (b"", b"# nothing\n", b"tls_server_config:\nbasic_auth_users:\nhttp_server_config:\n"):
        assert parse_web_config(content) == WebConfig()


def test_the_whole_format_is_read():
    config = parse_web_config(
        f"""\
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_ca_file: clients.pem
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [prometheus.example.org, 10.0.0.1]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP256]
http_server_config:
  http2: true
  headers:
    X-Frame-Options: deny
    X-Content-Type-Options: nosniff
    X-XSS-Protection: 1
    Strict-Transport-Security: max-age=31536000; includeSubDomains
    Content-Security-Policy: ""
basic_auth_users:
  alice: {HASH}
  no: {HASH}
rate_limit:
  interval: 100ms
  burst: 20
""".encode()
    )
    assert config.tls_server_config.client_allowed_sans == ("prometheus.example.org", "10.0.0.1")
    assert config.tls_server_config.prefer_server_cipher_suites is False
    assert config.http_server_config.headers.items() == {
        "X-Frame-Options": "deny",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": "1",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    }
    assert config.basic_auth_users == {"alice": HASH, "no": HASH}
    assert (config.rate_limit.interval_ns, config.rate_limit.burst) == (100_000_000, 20)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a", "the file: .*mapping"),
        ("hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2v", "the file: .*mapping"),
        ("tls: {}", "'tls' is not a known key; allowed are tls_server_config, http_server_config"),
        ("tls_server_config: {cert_filse: a}", "'tls_server_config.cert_filse' is not a known key; .*cert_file,"),
        ("tls_server_config: []", r"tls_server_config: \[\] is not allowed; allowed is a mapping"),
        ("tls_server_config: {cert_file: [a]}", r"tls_server_config.cert_file: \['a'\] .*allowed is text"),
        ("tls_server_config: {key_file: server.key}", "one of cert_file and cert is needed"),
        ("tls_server_config: {cert_file: server.crt}", "one of key_file and key is needed"),
        ("tls_server_config: {client_auth_type: x}", "'x' is not allowed; allowed is one of NoClientCert"),
        (TLS + "  cert: |\n    PEM", "cert and cert_file exclude each other"),
        (TLS + "  client_ca_file: ca.pem", "a client CA needs client_auth_type"),
        (TLS + "  client_auth_type: RequireAnyClientCert", "'RequireAnyClientCert' .* RequireAndVerifyClientCert"),
        (TLS + "  client_allowed_sans: [a]", "client_allowed_sans needs client_auth_type"),
        (TLS + "  min_version: TLS11", "'TLS11' is not allowed; allowed is one of TLS12, TLS13"),
        (TLS + "  min_version: TLS13\n  max_version: TLS12", "min_version TLS13 is above max_version TLS12"),
        (TLS + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]", "cipher_suites: .*GCM_SHA2048"),
        (TLS + "  curve_preferences: [CurveP257]", "curve_preferences: .*one of CurveP256"),
        (TLS + "  curve_preferences: [CurveP256, X25519]", "one curve only"),
        (TLS + "  prefer_server_cipher_suites: perhaps", "'perhaps' is not allowed; allowed is true or false"),
        ("http_server_config: {headers: {Content-Type: foo}}", "headers.Content-Type' is not a known key"),
        ("http_server_config: {headers: {X-Frame-Options: foo}}", "'foo' .*one of \"\", deny, sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\r\\nSet-Cookie: b"}}', "printable ASCII"),
        ("basic_auth_users: {john: doe}", "basic_auth_users.john: the value .hidden. .*bcrypt hash"),
        ("basic_auth_users: {'a:b': x}", "'a:b' is not a user name"),
        (f"basic_auth_users: {{a: {HASH.replace('$10$', '$31$')}}}", "cost 4 to 16"),
        ("basic_auth_users: [a]", "mapping of names"),
        ("rate_limit: {interval: 5}", "a unit is needed"),
        ("rate_limit: {interval: fast}", "'fast' is not allowed; allowed is a duration"),
        ("rate_limit: {interval: 1s, burst: 0}", "'0' is not allowed; allowed is a whole number of at least 1"),
        ("a: 1\na: 2", "'a' is there twice in line 1"),
        ("? [a]\n: 1", "not plain YAML: a key that is not text"),
        ("a: [", "not plain YAML"),
        ("!!python/object:os.system a", "the file: .*mapping"),
        ("[" * 20000, "not plain YAML"),
        ("#" * (MAX_BYTES + 1), "larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_is_named(content, words):
    with pytest.raises(UsageError, match=words):
        parse_web_config(content.encode())


def test_secrets_are_not_told():
    for content in (
        "basic_auth_users: {a: hunter2}",
        "basic_auth_users: hunter2",
        "tls_server_config: {key: [hunter2]}",
    ):
        with pytest.raises(UsageError) as caught:
            parse_web_config(content.encode())
        assert "hunter2" not in str(caught.value)


def test_the_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"web\.yml: No such file"):
        read_web_config(tmp_path / "web.yml")
    (tmp_path / "web.yml").write_text("x: 1")
    with pytest.raises(UsageError, match=r"web\.yml: 'x' is not a known key"):
        read_web_config(tmp_path / "web.yml")
    with pytest.raises(UsageError, match="Is a directory"):
        read_web_config(tmp_path)


def read_or_refuse(content: bytes) -> None:
    try:
        result: object = parse_web_config(content)
    except UsageError as error:
        result = error
    assert isinstance(result, WebConfig) or len(str(result)) < 2000


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(HASH)
KEYS = (
    "tls_server_config http_server_config basic_auth_users rate_limit cert_file key headers interval burst http2 "
    "X-Frame-Options client_allowed_sans min_version"
)
words = st.sampled_from(KEYS.split())
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=5), inner),
    max_leaves=9,
)


@given(st.binary(max_size=400))
@example(b"\xff")
@example(b"a: &x [*x]")
@example(b"a: 2001-99-99")
@example(b"%YAML 9.9\n---\n")
@example(b"rate_limit: {interval: '\xc2\xb2'}")
def test_any_bytes_are_read_or_refused(content):
    read_or_refuse(content)


@given(st.dictionaries(words, trees))
def test_any_tree_is_read_or_refused(tree):
    read_or_refuse(yaml.safe_dump(tree).encode())


def context_of(folder, extra: str = "") -> ssl.SSLContext:
    context = make_tls_context(parse_web_config((TLS + extra).encode()).tls_server_config, folder)
    assert context is not None
    return context


def test_the_context_holds_what_the_file_says(authority, tmp_path):
    authority.issue("server")
    context = context_of(tmp_path, "  min_version: TLS13\n")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_NONE
    assert context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    context = context_of(tmp_path, "  prefer_server_cipher_suites: false\n")
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE


def test_every_cipher_of_the_format_is_known_to_openssl(authority, tmp_path):
    authority.issue("server")
    names = parse_web_config.__globals__["Cipher"].__args__
    for name in names:
        ciphers = context_of(tmp_path, f"  cipher_suites: [{name}]\n").get_ciphers()
        below_13 = [one["name"] for one in ciphers if one["protocol"] != "TLSv1.3"]
        assert len(below_13) == 1 or "_WITH_" not in name, name


def test_files_that_cannot_be_used_are_named(authority, tmp_path):
    with pytest.raises(UsageError, match=r"cert_file: .*server\.crt: No such file"):
        context_of(tmp_path)
    authority.issue("server")
    _, other = authority.issue("other")
    (tmp_path / "server.key").write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match=r"server\.crt with server\.key cannot be used: key values mismatch"):
        context_of(tmp_path)
    authority.issue("server")
    (tmp_path / "server.key").write_text("junk")
    with pytest.raises(UsageError, match=r"server\.crt with server\.key cannot be used"):
        context_of(tmp_path)
    authority.issue("server")
    (tmp_path / "ca.pem").write_text("junk")
    with pytest.raises(UsageError, match=r"ca\.pem cannot be used"):
        context_of(tmp_path, "  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n")


def test_a_key_with_a_password_asks_nobody(authority, tmp_path):
    from cryptography.hazmat.primitives import serialization

    _, key_file = authority.issue("server")
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(pem, pkcs8, locked))
    with pytest.raises(UsageError, match=r"server\.key cannot be used"):
        context_of(tmp_path)


def test_inline_certificates_work(authority, tmp_path):
    certificate, key = authority.issue("server")
    content = {
        "tls_server_config": {
            "cert": certificate.read_text(),
            "key": key.read_text(),
            "client_ca": authority.file.read_text(),
            "client_auth_type": "VerifyClientCertIfGiven",
        }
    }
    config = parse_web_config(yaml.safe_dump(content).encode())
    context = make_tls_context(config.tls_server_config, tmp_path / "elsewhere")
    assert context is not None
    assert context.verify_mode == ssl.CERT_OPTIONAL
    assert len(context.get_ca_certs()) == 1


def test_client_names_are_compared_whole():
    config = parse_web_config(
        (
            TLS + "  client_ca_file: a\n  client_auth_type: RequireAndVerifyClientCert\n"
            "  client_allowed_sans: [prom.example.org, '::1', spiffe://a/b]\n"
        ).encode()
    ).tls_server_config

    def allowed(kind: str, name: str) -> bool:
        return is_allowed_client(config, {"subjectAltName": ((kind, name),)})

    assert allowed("DNS", "prom.example.org")
    assert allowed("IP Address", "0:0:0:0:0:0:0:1")
    assert allowed("URI", "spiffe://a/b")
    assert not allowed("DNS", "evil-prom.example.org")
    assert not allowed("DirName", "prom.example.org")
    assert not is_allowed_client(config, None)
    assert is_allowed_client(WebConfig().tls_server_config, None)
