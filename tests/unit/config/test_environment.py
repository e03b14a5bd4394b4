"""Variables: ours, OpenTelemetry's, and those of others that only look like ours."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.config import ConfigError, Settings, load
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
        ("KASPAN_SERVCE", "KASPAN_SERVICE"),
        ("KASPAN_INTERCEPTOR_SAMPLING_RATE", "KASPAN_INTERCEPTOR__SAMPLING__RATE"),
        ("KASPAN_interceptor__enabled", "KASPAN_INTERCEPTOR__ENABLED"),
    ],
)
def test_unknown_variable_comes_with_a_suggestion(name: str, meant: str) -> None:
    """A misspelt variable would silently do nothing."""
    assert (
        refusal_of({name: "x"})
        == f"environment {name}: there is no setting of this name; did you mean {meant}?"
    )


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
    """What Kubernetes sets beside a Service called kaspan or kaspan-agent is no setting and no error."""
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


def test_otel_traces_sampler_argument_is_checked() -> None:
    """A ratio out of bounds is an error that names the argument's variable."""
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}
    assert refusal_of(environ) == (
        "environment OTEL_TRACES_SAMPLER_ARG: interceptor.sampling.rate is 2; "
        "the rule is a number from 0 to 1"
    )


def test_otel_traces_sampler_that_is_not_ours_is_refused() -> None:
    """A sampler that kaspan cannot follow is named."""
    assert refusal_of({"OTEL_TRACES_SAMPLER": "jaeger_remote"}).startswith(
        "environment OTEL_TRACES_SAMPLER: jaeger_remote is not a sampler that kaspan has; the rule is one of "
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


def test_otel_propagator_that_is_not_ours_is_refused() -> None:
    """A format that kaspan does not have would cut traces, so it is named."""
    assert refusal_of({"OTEL_PROPAGATORS": "b3,jaeger"}) == (
        "environment OTEL_PROPAGATORS: jaeger is not a propagator that kaspan has; "
        "the rule is a list of b3, b3multi, tracecontext, baggage, none"
    )


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
    """Whatever the variables hold, the answer is settings or errors of one printable line each."""
    errors: tuple[str, ...] = ()
    try:
        load(None, environ)
    except ConfigError as refused:
        errors = refused.errors
    assert all(line.startswith("environment ") and line.isprintable() for line in errors)
