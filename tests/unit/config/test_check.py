"""What a value may be, and the message for a value that it may not be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kaspan.config import ConfigError, Loaded, Settings, load
from kaspan.config.check import Checker
from kaspan.config.display import write
from kaspan.config.errors import Errors
from kaspan.config.schema import (
    AddTags,
    ConsoleSender,
    Processor,
    Redact,
    RenameRemote,
    ZipkinSender,
)
from kaspan.config.schema.types import AbsolutePath
from kaspan.config.yaml_nodes import parse


def settings_of(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "kaspan.yaml"
    path.write_text(text, encoding="utf-8")
    return load(str(path), {}).settings


def refusal_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        settings_of(tmp_path, text)
    return str(refused.value).replace(f"{tmp_path}/kaspan.yaml", "FILE")


@pytest.mark.parametrize("text", ["INFO", "Info", "info", "'INFO'"])
def test_word_may_be_written_in_any_case(tmp_path: Path, text: str) -> None:
    """INFO is accepted for info; the settings hold the word as the rule writes it."""
    assert settings_of(tmp_path, f"agent: {{log: {{level: {text}}}}}").agent.log.level == "info"


@pytest.mark.parametrize(
    ("text", "rate"), [("1", 1.0), ("0", 0.0), ("1e-3", 0.001), (".5", 0.5), ("+0.1", 0.1)]
)
def test_number_may_be_written_in_any_way(tmp_path: Path, text: str, rate: float) -> None:
    """Integers and exponents, with or without a point, are numbers."""
    assert (
        settings_of(tmp_path, f"interceptor: {{sampling: {{rate: {text}}}}}").interceptor.sampling.rate
        == rate
    )


@pytest.mark.parametrize(
    "text", ["true", "yes", ".nan", ".inf", "-.inf", "nan", "1e999", "-0.5", "1.01", "1:30", "[1]", "x"]
)
def test_rate_is_a_number_from_0_to_1(tmp_path: Path, text: str) -> None:
    """Booleans, infinities, NaN, text and numbers out of bounds are refused as rates."""
    assert refusal_of(tmp_path, f"interceptor:\n  sampling:\n    rate: {text}").endswith(
        "; the rule is a number from 0 to 1"
    )


@pytest.mark.parametrize("text", ["65536.0", "1e6", "true", "65535", "9" * 30, "64KiB", "0x10000"])
def test_ring_bytes_is_a_whole_number_within_bounds(tmp_path: Path, text: str) -> None:
    """Fractions, booleans, units and numbers out of bounds are refused as sizes."""
    assert refusal_of(tmp_path, f"interceptor:\n  ring_bytes: {text}") == (
        f"FILE:2: interceptor.ring_bytes is {text}; the rule is a whole number from 65536 to 1073741824"
    )


@pytest.mark.parametrize(("text", "enabled"), [("true", True), ("No", False), ("OFF", False), ("on", True)])
def test_boolean_is_what_yaml_calls_one(tmp_path: Path, text: str, enabled: bool) -> None:
    """YAML's words for true and false are taken."""
    assert settings_of(tmp_path, f"interceptor: {{enabled: {text}}}").interceptor.enabled is enabled


@pytest.mark.parametrize("text", ["42", "true", "1.5", "0x1f", "off"])
def test_text_that_looks_like_something_else_wants_quotes(tmp_path: Path, text: str) -> None:
    """What a YAML reader may take for a number or boolean is not silently text, and the advice is quotes."""
    assert (
        refusal_of(tmp_path, f"service: {text}")
        == f"FILE:1: service is {text}; the rule is text; put it in quotes"
    )
    assert settings_of(tmp_path, f"service: '{text}'").service == text


def test_quoted_number_is_text(tmp_path: Path) -> None:
    """A number in quotes is refused, and the advice is to take them away."""
    assert refusal_of(tmp_path, 'interceptor:\n  sampling: {rate: "0.5"}') == (
        'FILE:2: interceptor.sampling.rate is "0.5"; the rule is a number from 0 to 1; remove the quotes'
    )


def test_key_without_value_is_refused(tmp_path: Path) -> None:
    """A key with nothing behind it is not its default."""
    assert refusal_of(tmp_path, "interceptor:\n  ring_dir:\n") == (
        "FILE:2: interceptor.ring_dir is empty; the rule is an absolute path; "
        "remove the key to use its default"
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("interceptor: {samplng: {}}", "there is no key interceptor.samplng; did you mean sampling?"),
        ("sampling: {rate: 1}", "there is no key sampling; known are agent, interceptor, service"),
        ("agent: {rate: 1}", "there is no key agent.rate; did you mean interceptor.sampling.rate?"),
        (
            "agent: {senders: [{type: zipkin, uri: x}]}",
            "there is no key agent.senders[0].uri; did you mean url?",
        ),
    ],
)
def test_unknown_key_comes_with_a_suggestion(tmp_path: Path, text: str, hint: str) -> None:
    """A key that does not exist is an error that says which one may have been meant."""
    assert refusal_of(tmp_path, text) == f"FILE:1: {hint}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "{url: 'http://zipkin:9411'}",
            "agent.senders[0].type is missing; the rule is one of zipkin, kafka, console",
        ),
        ("{type: ''}", "agent.senders[0].type is empty; the rule is one of zipkin, kafka, console"),
        ("zipkin", "agent.senders[0] is zipkin; the rule is a map of keys"),
    ],
)
def test_sender_is_known_by_its_type(tmp_path: Path, text: str, error: str) -> None:
    """Each sender says what it is."""
    assert refusal_of(tmp_path, f"agent:\n  senders: [{text}]") == f"FILE:2: {error}"


class FileSettings(msgspec.Struct, frozen=True):
    """What an author of a sender declares."""

    path: AbsolutePath
    password: str | None = None


class Installed:
    """Two senders of other packages, one of which cannot be loaded."""

    def names(self) -> list[str]:
        return ["file", "broken"]

    def settings(self, name: str) -> type[msgspec.Struct]:
        if name == "broken":
            raise ValueError("it cannot be loaded: No module named 'nowhere'")
        return FileSettings


def load_senders(tmp_path: Path, text: str) -> Loaded:
    path = tmp_path / "kaspan.yaml"
    path.write_text(f"agent:\n  senders: [{text}]\n", encoding="utf-8")
    return load(str(path), {}, senders=Installed())


def test_installed_sender_has_settings_of_its_own(tmp_path: Path) -> None:
    """They become an instance of the struct that its author declared, and are shown like any others."""
    loaded = load_senders(tmp_path, "{type: file, path: /spans, password: x}, {type: console}")
    file, console = loaded.settings.agent.senders
    assert isinstance(file, FileSettings)
    assert (file.path, file.__struct_config__.tag, console) == ("/spans", "file", ConsoleSender())
    again = load_senders(tmp_path, "{type: file, path: /spans, password: x}, {type: console}")
    assert again.settings == loaded.settings
    assert write("agent.senders", loaded.settings.agent.senders) == (
        '[{type: file, path: /spans, password: "***"}, {type: console}]'
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{type: file}", "agent.senders[0].path is missing; the rule is an absolute path"),
        ("{type: file, path: x}", "agent.senders[0].path is x; the rule is an absolute path"),
        ("{type: file, path: /x, pth: y}", "there is no key agent.senders[0].pth; did you mean path?"),
        (
            "{type: fil}",
            "agent.senders[0].type is fil; the rule is one of zipkin, kafka, console, file, broken",
        ),
        (
            "{type: broken}",
            "agent.senders[0].type is broken; it cannot be loaded: No module named 'nowhere'",
        ),
    ],
)
def test_installed_senders_settings_are_checked_like_any_others(
    tmp_path: Path, text: str, error: str
) -> None:
    """Errors name file, line, key and rule; for an unknown type also the installed senders."""
    with pytest.raises(ConfigError) as refused:
        load_senders(tmp_path, text)
    assert refused.value.errors == (f"{tmp_path}/kaspan.yaml:2: {error}",)


def test_application_does_not_mind_a_sender_that_only_the_agent_has(tmp_path: Path) -> None:
    """Both sides may share one file; the application's environment need not have the agent's packages."""
    settings = settings_of(tmp_path, "agent:\n  senders: [{type: elsewhere, anything: 1}, {type: console}]")
    assert [sender.__struct_config__.tag for sender in settings.agent.senders] == ["elsewhere", "console"]


def test_headers_of_a_sender_are_secrets(tmp_path: Path) -> None:
    """What a header is for is not known, so no value of one is shown."""
    settings = settings_of(tmp_path, "agent:\n  senders: [{type: zipkin, headers: {X-Key: abc}}]")
    assert 'X-Key: "***"' in write("agent.senders", settings.agent.senders)
    refusal = refusal_of(tmp_path, "agent:\n  senders: [{type: zipkin, headers: {X-Key: 12345}}]")
    assert "X-Key is ***" in refusal


@pytest.mark.parametrize(
    ("store", "error"),
    [
        ("{path: store}", "agent.store.path is store; the rule is an absolute path"),
        (
            "{max_bytes: 1}",
            "agent.store.max_bytes is 1; the rule is a whole number from 16777216 to 1125899906842624",
        ),
        ("{max_age_s: 0}", "agent.store.max_age_s is 0; the rule is a number of seconds, more than 0"),
        ("{retention: 1}", "there is no key agent.store.retention"),
        ("/spans", "agent.store is /spans; the rule is a map with keys among path, max_bytes, max_age_s"),
        ("true", "agent.store is true; the rule is a map with keys among path, max_bytes, max_age_s"),
        (
            '{autocomplete_keys: [""]}',
            "agent.store.autocomplete_keys[0] is empty; the rule is the key of a tag, such as http.method",
        ),
    ],
)
def test_store_is_checked_like_any_section(tmp_path: Path, store: str, error: str) -> None:
    """Its errors name line, key, value and rule; a path or `true` in its place is not guessed at."""
    assert refusal_of(tmp_path, f"agent:\n  store: {store}").startswith(f"FILE:2: {error}")


def processors_of(tmp_path: Path, text: str) -> tuple[Processor, ...]:
    return settings_of(tmp_path, f"agent:\n  processors:\n    - {text}\n").agent.processors


def refused_processor(tmp_path: Path, text: str) -> str:
    return refusal_of(tmp_path, f"agent:\n  processors:\n    - {text}\n")


def test_map_with_keys_of_the_user_keeps_them(tmp_path: Path) -> None:
    """A map whose keys the user chooses accepts any key, and keeps the file's order."""
    (processor,) = processors_of(tmp_path, "{type: add_tags, tags: {b.c: x, 'a d': '1'}}")
    assert isinstance(processor, AddTags)
    assert list(processor.tags.items()) == [("b.c", "x"), ("a d", "1")]


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ("{a: 1}", "tags.a is 1; the rule is text; put it in quotes"),
        ("{a: [x]}", "tags.a is a list; the rule is text"),
        ("{a: }", "tags.a is empty; the rule is text; remove the key to use its default"),
        ("[a]", "tags is a list; the rule is a map of at least one tag, such as {deployment: prod}"),
        ("{}", "tags is a map; the rule is a map of at least one tag, such as {deployment: prod}"),
        ("{token: 5}", "tags.token is ***; the rule is text; put it in quotes"),
    ],
)
def test_map_is_checked_value_by_value(tmp_path: Path, tags: str, error: str) -> None:
    """Each value of such a map follows the map's rule, and its error names its key."""
    assert refused_processor(tmp_path, f"{{type: add_tags, tags: {tags}}}") == (
        f"FILE:3: agent.processors[0].{error}"
    )


def test_optional_key_may_be_left_out_and_not_be_empty(tmp_path: Path) -> None:
    """A key without a default is not set when it is left out; it is an error with nothing behind it."""
    (processor,) = processors_of(tmp_path, "{type: redact, tags: ['*']}")
    assert isinstance(processor, Redact)
    assert processor.hash_secret is None
    assert refused_processor(tmp_path, "{type: redact, hash_secret: }") == (
        "FILE:3: agent.processors[0].hash_secret is ***; the rule is text; remove the key to use its default"
    )


def test_key_that_python_reserves_can_be_set(tmp_path: Path) -> None:
    """`from` is a key like any other."""
    (processor,) = processors_of(tmp_path, "{type: rename_remote, from: broker}")
    assert isinstance(processor, RenameRemote)
    assert processor.from_ == "broker"


def test_senders_keep_their_order(tmp_path: Path) -> None:
    """One list holds senders of different types."""
    text = "agent:\n  senders:\n    - type: console\n    - {type: zipkin, url: 'https://z/x'}\n"
    assert settings_of(tmp_path, text).agent.senders == (ConsoleSender(), ZipkinSender(url="https://z/x"))


@pytest.mark.parametrize(
    "url",
    ["http://zipkin:9411", "https://u:p@zipkin/api/v2/spans", "http://[::1]:9411/x?y=z", "http://127.0.0.1"],
)
def test_address_of_zipkin_is_accepted(tmp_path: Path, url: str) -> None:
    """Host names, IPv4 and IPv6, with or without port, user and path are addresses."""
    text = f"agent: {{senders: [{{type: zipkin, url: '{url}'}}]}}"
    assert settings_of(tmp_path, text).agent.senders == (ZipkinSender(url=url),)


@pytest.mark.parametrize(
    "url", ["zipkin:9411", "ftp://zipkin", "http://", "http://:9411", "http://z:port", "http://a b/"]
)
def test_what_is_no_address_is_refused(tmp_path: Path, url: str) -> None:
    """Another scheme, a missing host or a wrong port is refused: it would only fail later."""
    assert refusal_of(tmp_path, f"agent: {{senders: [{{type: zipkin, url: '{url}'}}]}}").endswith(
        "; the rule is an address such as http://zipkin:9411"
    )


@pytest.mark.parametrize("path", ["rings", "~/rings", "", '"/a\\0b"'])
def test_directory_is_an_absolute_path(tmp_path: Path, path: str) -> None:
    """A relative path would be another directory in every process."""
    assert "; the rule is an absolute path" in refusal_of(tmp_path, f"interceptor: {{ring_dir: {path}}}")


@pytest.mark.parametrize("template", ["kafka/{group}", "kafka/{", "{}"])
def test_remote_service_knows_one_placeholder(tmp_path: Path, template: str) -> None:
    """Only {topic} can be filled in."""
    assert "the rule is text such as kafka/{topic}, in which {topic} is replaced" in refusal_of(
        tmp_path, f"interceptor: {{remote_service: '{template}'}}"
    )


class Rule(msgspec.Struct, frozen=True):
    call: str
    name: str = ""


def test_missing_key_of_a_list_item_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map in a list that lacks a key without default is refused with the key's name."""
    monkeypatch.setattr("kaspan.config.check.type_of", {"functions": tuple[Rule, ...]}.get)
    errors = Errors()
    checker = Checker(errors)
    checker.set("functions", parse("- {call: a}\n- {name: b}", lambda line: f"FILE:{line}", errors))
    with pytest.raises(ConfigError) as refused:
        errors.raise_if_any()
    assert str(refused.value) == "FILE:2: functions[1].call is missing; the rule is text"
    assert checker.found == {}


@pytest.mark.parametrize("key", ["password", "client_secret", "Token", "api_token"])
def test_secrets_are_not_in_errors(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """An error shows *** for the value of a key that is named like a secret."""
    monkeypatch.setattr("kaspan.config.check.type_of", {f"agent.{key}": bool}.get)
    errors = Errors()
    Checker(errors).set(f"agent.{key}", parse("hunter2", str, errors))
    with pytest.raises(ConfigError) as refused:
        errors.raise_if_any()
    assert str(refused.value) == f"1: agent.{key} is ***; the rule is true or false"


def test_password_in_an_address_is_not_in_errors(tmp_path: Path) -> None:
    """The password of a wrong address is *** as well."""
    said = refusal_of(tmp_path, "agent: {senders: [{type: zipkin, url: 'ftp://me:hunter2@zipkin'}]}")
    assert "ftp://me:***@zipkin" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "agent: {senders: [{type: zipkin, password:hunter2}]}",
            "there is no key agent.senders[0].password:***; write KEY: VALUE, with a space after the colon",
        ),
        (
            "agent: {token:hunter2}",
            "there is no key agent.token:***; write KEY: VALUE, with a space after the colon",
        ),
        ("agent:\n  token:hunter2", "agent is token:***; the rule is a map"),
        ("agent:\n  senders: 'password hunter2'", 'agent.senders is "password ***"; the rule is a list'),
        (
            "agent: {senders: [{type: zipkin, headers: {Authorization:hunter2}}]}",
            "agent.senders[0].headers.Authorization:*** is ***",
        ),
        ("agent: {senders: [{type: zipkin, headers: hunter2}]}", "agent.senders[0].headers is ***"),
        ("agent: {senders: [{type: zipkin, url: 'htps://hunter2@zipkin'}]}", '"htps://***@zipkin"'),
        ("agent: {senders: [{type: zipkin, url: 'hunter2@zipkin'}]}", '"***@zipkin"'),
        ("agent: {token: *hunter2}", "a value that begins with * is an alias in YAML"),
        ("agent:\n  token: !hunter2", "a value that begins with ! is a tag in YAML"),
        ("agent:\n  token: !hunter2!x", "not YAML"),
        ("{token:hunter2: 1, token:hunter2: 2}", "token:*** is set a second time"),
        (
            "agent: {password=hunter2}",
            "there is no key agent.password=***; write KEY: VALUE, with a space after the colon",
        ),
        (
            "agent: {tls: {key: '-----BEGIN EC PRIVATE KEY-----hunter2'}}",
            '"-----BEGIN EC PRIVATE KEY-----***"',
        ),
        ("interceptor: {agent: 'hunter2@kaspan'}", '"***@kaspan"'),
    ],
)
def test_secret_with_a_typo_around_it_is_not_in_errors(tmp_path: Path, text: str, said: str) -> None:
    """A missing space, quote, key or scheme does not put a password or token into a log."""
    refusal = refusal_of(tmp_path, text)
    assert said in refusal
    assert "hunter2" not in refusal
