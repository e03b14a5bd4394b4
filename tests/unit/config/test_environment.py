"""Variables: ours, OpenTelemetry's, and those of others that only look like ours."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.config import ConfigError, Settings, load, schema
from kaspan.config.errors import Side
from kaspan.config.keys import types, variable
from kaspan.config.schema import ZipkinSender

MEANS_SOMETHING_EMPTY = ("interceptor.remote_service", "agent.listen", "agent.socket")


def refusal_of(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        load(None, environ)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "enabled"), [("1", True), ("0", False), ("TRUE", True), (" no ", False), ("off", False)]
)
def test_boolean_variable_takes_the_usual_words(text: str, enabled: bool) -> None:
    """A variable may say 1 and 0 as well as true and false."""
    assert load(None, {"KASPAN_INTERCEPTOR__ENABLED": text}).settings.interceptor.enabled is enabled


@pytest.mark.parametrize("text", ["42", "true", "null", "[a]", " a "])
def test_text_variable_is_taken_as_it_is(text: str) -> None:
    """The text of a variable needs no quotes."""
    assert load(None, {"KASPAN_SERVICE": text}).settings.service == text


def test_section_variable_sets_only_its_keys() -> None:
    """A section's map and a key's own variable work together, the key's own winning."""
    environ = {
        "KASPAN_AGENT__BATCH__MAX_BYTES": "2048",
        "KASPAN_AGENT__BATCH": "{max_bytes: 4096, flush_interval_s: 2}",
    }
    batch = load(None, environ).settings.agent.batch
    assert (batch.max_bytes, batch.flush_interval_s) == (2048, 2.0)


def test_empty_variable_counts_as_not_set() -> None:
    """A deployment's template that leaves variables blank changes nothing."""
    blank = {variable(key): "" for key in types() if key not in MEANS_SOMETHING_EMPTY}
    otel = ("SERVICE_NAME", "SDK_DISABLED", "PROPAGATORS", "TRACES_SAMPLER", "EXPORTER_ZIPKIN_ENDPOINT")
    blank.update({f"OTEL_{name}": "" for name in otel}, KASPAN_CONFIG="")
    assert load(None, blank).settings == Settings()


def test_blank_service_leaves_that_of_opentelemetry() -> None:
    """KASPAN_SERVICE left blank does not undo OTEL_SERVICE_NAME."""
    assert load(None, {"KASPAN_SERVICE": "", "OTEL_SERVICE_NAME": "orders"}).settings.service == "orders"


@pytest.mark.parametrize("key", MEANS_SOMETHING_EMPTY)
def test_blank_remote_service_and_addresses_are_none(key: str) -> None:
    """The keys for which empty text means something can be set to it."""
    settings = load(None, {variable(key): ""}).settings
    assert reduce(getattr, key.split("."), settings) == ""


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        (
            "KASPAN_INTERCEPTOR__SAMPLING__RATE",
            "-0.5",
            "interceptor.sampling.rate is -0.5; the rule is a number",
        ),
        (
            "KASPAN_INTERCEPTOR__SAMPLING__RATE",
            "nan",
            "interceptor.sampling.rate is nan; the rule is a number",
        ),
        ("KASPAN_INTERCEPTOR__ENABLED", "2", "interceptor.enabled is 2; the rule is true or false"),
        (
            "KASPAN_AGENT__RING_DIRS",
            "/a",
            "agent.ring_dirs is /a; the rule is a list such as [a, b], each an abs",
        ),
        ("KASPAN_AGENT__RING_DIRS", "[/a, b]", "agent.ring_dirs[1] is b; the rule is an absolute path"),
        ("KASPAN_AGENT__RING_DIRS", "[/a", "not YAML: while parsing a flow sequence"),
        ("KASPAN_AGENT", "5", "agent is 5; the rule is a map with keys among listen, socket, token"),
        ("KASPAN_SERVICE", "caf\udce9", "service is 'caf\\udce9'; the rule is text"),
    ],
)
def test_bad_variable_is_named(name: str, text: str, error: str) -> None:
    """An error of a variable names it, its key, its value and the rule."""
    assert refusal_of({name: text}).startswith(f"environment {name}: {error}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KASPAN_INTERCEPTOR_SAMPLING_RATE", "KASPAN_INTERCEPTOR__SAMPLING__RATE"),
        ("KASPAN_interceptor__enabled", "KASPAN_INTERCEPTOR__ENABLED"),
        ("KASPAN_AGENT_TOKEN", "KASPAN_AGENT__TOKEN"),
        ("KASPAN_AGENT__SPOL__PATH", "KASPAN_AGENT__SPOOL__PATH"),
    ],
)
def test_variable_that_can_only_be_a_misspelt_one_is_refused(name: str, meant: str) -> None:
    """A variable in a section, or one that lacks an underscore, would silently do nothing."""
    assert (
        refusal_of({name: "x"})
        == f"environment {name}: there is no setting with this name; did you mean {meant}?"
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KASPAN_VERSION", ""),
        ("KASPAN_HOME", ""),
        ("KASPAN_BUILD_DATE", ""),
        ("KASPAN_SERVCE", "; did you mean KASPAN_SERVICE?"),
    ],
)
@pytest.mark.parametrize("side", [None, "interceptor", "agent"])
def test_variable_that_can_be_somebody_elses_is_a_warning(name: str, hint: str, side: Side | None) -> None:
    """An unknown variable that may be a Dockerfile's is a warning to both sides, with a similar name."""
    loaded = load(None, {name: "0.1.0"}, side=side)

    assert loaded.settings == Settings()
    assert loaded.warnings == (f"environment {name}: there is no setting with this name{hint}",)


@pytest.mark.parametrize(
    "name",
    [
        *("KASPAN_SERVICE_HOST", "KASPAN_SERVICE_PORT", "KASPAN_SERVICE_PORT_HTTP_ZIPKIN", "KASPAN_PORT"),
        *("KASPAN_PORT_9412_TCP", "KASPAN_PORT_9412_TCP_ADDR", "KASPAN_PORT_9412_TCP_PROTO"),
        *("KASPAN_PORT_9412_TCP_PORT", "KASPAN_PORT_53_UDP_ADDR", "KASPAN_AGENT_SERVICE_HOST"),
        *("KASPAN_AGENT_PORT", "KASPAN_AGENT_EU_1_PORT_9412_TCP_ADDR"),
    ],
)
def test_variables_of_kubernetes_are_ignored(name: str) -> None:
    """Variables that Kubernetes sets for a Service called kaspan or kaspan-agent are ignored."""
    assert load(None, {name: "tcp://10.0.0.1:9412"}).settings == Settings()


def test_own_variables_that_are_no_settings_are_ignored() -> None:
    """What `kaspan run` tells its children is not a setting."""
    assert load(None, {"KASPAN_INJECT": "/somewhere"}).settings == Settings()


@pytest.mark.parametrize(
    ("sampler", "argument", "rate"),
    [
        ("always_on", "0.5", 1.0),
        ("always_off", "", 0.0),
        ("traceidratio", "0.25", 0.25),
        ("traceidratio", "", 1.0),
        ("parentbased_always_on", "", 1.0),
        ("parentbased_always_off", "", 0.0),
        ("ParentBased_TraceIdRatio", " 0.25 ", 0.25),
        ("", "0.5", 1.0),
    ],
)
def test_otel_traces_sampler_sets_the_rate(sampler: str, argument: str, rate: float) -> None:
    """OpenTelemetry's samplers and their argument give the sampling rate."""
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert load(None, environ).settings.interceptor.sampling.rate == rate


@pytest.mark.parametrize("argument", ["2", "-1", "nan", "many", "\u0661"])
def test_otel_traces_sampler_argument_out_of_bounds_is_left_aside(argument: str) -> None:
    """A wrong ratio is a warning that names the argument's variable, as in OpenTelemetry's SDK."""
    loaded = load(None, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": argument})

    assert loaded.settings == Settings()
    (warning,) = loaded.warnings
    assert warning.startswith("environment OTEL_TRACES_SAMPLER_ARG: ")


def test_otel_traces_sampler_of_another_tracer_is_left_aside() -> None:
    """A sampler that only the application's own SDK has is named, and changes nothing here."""
    loaded = load(None, {"OTEL_TRACES_SAMPLER": "jaeger_remote"})

    assert loaded.settings == Settings()
    (warning,) = loaded.warnings
    assert warning.startswith(
        "environment OTEL_TRACES_SAMPLER: jaeger_remote is not a sampler of kaspan, which ignores it"
    )


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("tracecontext,baggage", ("tracecontext",)),
        (" B3 , b3multi,b3", ("b3", "b3multi")),
        ("none", ()),
        ("none,b3", ()),
        ("baggage", ()),
    ],
)
def test_otel_propagators_set_both_directions(text: str, formats: tuple[str, ...]) -> None:
    """The propagators are written and read, in their order; baggage needs nothing done."""
    propagation = load(None, {"OTEL_PROPAGATORS": text}).settings.interceptor.propagation
    assert (propagation.inject, propagation.extract) == (formats, formats)


@pytest.mark.parametrize(
    ("text", "propagation"),
    [
        ("jaeger,b3", schema.Propagation(inject=("b3",), extract=("b3",))),
        ("jaeger", schema.Propagation()),
        ("xray,ottrace", schema.Propagation()),
        ("jaeger,none", schema.Propagation(inject=(), extract=())),
    ],
)
def test_otel_propagators_of_another_tracer_are_left_aside(
    text: str, propagation: schema.Propagation
) -> None:
    """Formats that only the application's own SDK has are named; kaspan uses the others, or its default."""
    loaded = load(None, {"OTEL_PROPAGATORS": text})

    assert loaded.settings.interceptor.propagation == propagation
    assert [line.split(" is not ")[0] for line in loaded.warnings] == [
        f"environment OTEL_PROPAGATORS: {name}" for name in text.split(",") if name not in ("b3", "none")
    ]


@pytest.mark.parametrize(
    ("text", "enabled"), [("true", False), ("True", False), ("false", True), ("1", True)]
)
def test_otel_sdk_disabled_disables(text: str, enabled: bool) -> None:
    """Only "true" disables, as OpenTelemetry has it."""
    assert load(None, {"OTEL_SDK_DISABLED": text}).settings.interceptor.enabled is enabled


def test_otel_exporter_zipkin_endpoint_is_the_sender() -> None:
    """Zipkin's address is taken over, and checked as ours is."""
    url = "http://zipkin:9411/api/v2/spans"
    loaded = load(None, {"OTEL_EXPORTER_ZIPKIN_ENDPOINT": url})
    assert loaded.settings.agent.senders == (ZipkinSender(url=url),)
    assert loaded.origins["agent.senders"] == "environment OTEL_EXPORTER_ZIPKIN_ENDPOINT"
    assert "agent.senders[0].url is" in refusal_of({"OTEL_EXPORTER_ZIPKIN_ENDPOINT": "zipkin:9411"})


NAMES = st.sampled_from(
    [variable(key) for key in types()]
    + ["OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED", "OTEL_PROPAGATORS", "OTEL_TRACES_SAMPLER"]
    + ["OTEL_TRACES_SAMPLER_ARG", "OTEL_EXPORTER_ZIPKIN_ENDPOINT"]
) | st.text().map("KASPAN_".__add__)
VALUES = st.text() | st.text(st.sampled_from("[]{}:,-'\" \n0a")) | st.sampled_from(["\udc80", "traceidratio"])


@settings(deadline=None, max_examples=300)
@given(environ=st.dictionaries(NAMES.filter(lambda name: name != "KASPAN_CONFIG"), VALUES, max_size=5))
def test_any_environment_raises_nothing_but_config_errors(environ: dict[str, str]) -> None:
    """Any variables give settings, or errors of one printable line each."""
    try:
        errors = load(None, environ).warnings
    except ConfigError as refused:
        errors = refused.errors
    assert all(line.startswith("environment ") and line.isprintable() for line in errors)
