"""Settings from the environment: KASPAN_* for every key, and those of OpenTelemetry that kaspan supports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from kaspan.config.errors import Errors, closest, shorten, suggest
from kaspan.config.keys import VARIABLE_PREFIX, default, key_of, type_of, types, variable
from kaspan.config.yaml_nodes import Items, Map, Node, Scalar

CONFIG_VARIABLE = "KASPAN_CONFIG"
NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "KASPAN_INJECT", "KASPAN_PURE_PYTHON"})
"""Variables of kaspan that are not settings: the YAML file's path, the folder that `kaspan run` sets, and the
switch between the compiled part and plain Python."""

PROPAGATORS = ("b3", "b3multi", "tracecontext")
SAMPLER_RATES = {"always_on": "1", "always_off": "0"}


def from_kaspan(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    """Yield dotted key and node for each KASPAN_ variable that is set, sections before their own keys.

    An empty variable counts as not set, so that a deployment's template may leave it blank, unless empty text
    is a valid value that differs from the default. Unknown variables are added to `errors`; those that may
    belong to another program, such as a Dockerfile's KASPAN_VERSION, are warnings.
    """
    names = [name for name in environ if name.startswith(VARIABLE_PREFIX) and name not in NOT_SETTINGS]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        key = key_of(name)
        if key is None:
            if not _is_from_kubernetes(name):
                _unknown(name, errors)
        elif environ[name] or _can_be_empty(key):
            yield key, _raw(environ[name], name)


def _unknown(name: str, errors: Errors) -> None:
    said, where = "there is no setting with this name", _where(name)
    if errors.full:
        errors.warn(where, said)
        return
    meant = {_as_one_word(variable(key)): key for key in types()}.get(_as_one_word(name))
    section = next((one for one in ("interceptor", "agent") if name.startswith(f"{variable(one)}__")), None)
    if meant is not None:
        errors.add(where, f"{said}; did you mean {variable(meant)}?", meant, is_unknown=True)
    elif section is not None:
        errors.add(where, f"{said}; {suggest(name, map(variable, types()))}", section, is_unknown=True)
    else:
        # Compared without the prefix, which makes all names look alike.
        close = closest(
            name.removeprefix(VARIABLE_PREFIX), (key.replace(".", "__").upper() for key in types())
        )
        errors.warn(where, f"{said}{f'; did you mean {VARIABLE_PREFIX}{close}?' if close else ''}")


def _as_one_word(name: str) -> str:
    """Write a variable's name without underscores, to find a name with one underscore instead of two."""
    return name.upper().replace("_", "")


def _can_be_empty(key: str) -> bool:
    """Whether empty text is a valid value of a key, and not its default already."""
    try:
        msgspec.convert("", type_of(key))
    except msgspec.ValidationError:
        return False
    return bool(default(key) != "")


def _is_from_kubernetes(name: str) -> bool:
    """Whether Kubernetes made the variable for a Service that is called kaspan or kaspan-something.

    Source: "Discovering services" in the Kubernetes documentation of Service.
    """
    import re

    pattern = (
        r"KASPAN(_[A-Z0-9]+)*"
        r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
    )
    return re.fullmatch(pattern, name) is not None


def from_opentelemetry(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    """Yield dotted key and node for each of OpenTelemetry's variables that kaspan supports.

    An empty variable counts as not set. The application's SDK reads the same variables, so a value that
    kaspan does not support is a warning in `errors`, and counts as not set.

    Source: OpenTelemetry specification, "Environment Variable Specification".
    """
    if service := environ.get("OTEL_SERVICE_NAME"):
        yield "service", _raw(service, "OTEL_SERVICE_NAME")
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield "interceptor.enabled", _raw("false", "OTEL_SDK_DISABLED")
    yield from _propagators(environ, errors)
    yield from _sampler(environ, errors)
    if url := environ.get("OTEL_EXPORTER_ZIPKIN_ENDPOINT"):
        where = _where("OTEL_EXPORTER_ZIPKIN_ENDPOINT")
        sender = Map({"type": Scalar("zipkin", "quoted", where), "url": Scalar(url, "quoted", where)}, where)
        yield "agent.senders", Items([sender], where)


def _propagators(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    where = _where("OTEL_PROPAGATORS")
    names = [name.strip().lower() for name in environ.get("OTEL_PROPAGATORS", "").split(",")]
    names = list(dict.fromkeys(filter(None, names)))
    if not names:
        return
    # Baggage needs no code: kaspan leaves headers that hold no trace context as they are.
    for name in names:
        if name not in (*PROPAGATORS, "baggage", "none"):
            errors.warn(
                where,
                f"{shorten(name)} is not a propagator of kaspan, which ignores it; kaspan has "
                f"{', '.join(PROPAGATORS)}",
            )
    chosen = [] if "none" in names else [name for name in names if name in PROPAGATORS]
    if not chosen and not {"baggage", "none"} & {*names}:
        return  # all of them are propagators of another tracer
    for key in ("inject", "extract"):
        yield f"interceptor.propagation.{key}", Items([Scalar(name, "word", where) for name in chosen], where)


def _sampler(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    key = "interceptor.sampling.rate"
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    # kaspan always keeps a record's own sampling decision, so every sampler is parent-based.
    kind = sampler.removeprefix("parentbased_")
    if kind in SAMPLER_RATES:
        yield key, _raw(SAMPLER_RATES[kind], "OTEL_TRACES_SAMPLER")
    elif kind == "traceidratio":
        argument = environ.get("OTEL_TRACES_SAMPLER_ARG")
        name = "OTEL_TRACES_SAMPLER_ARG" if argument else "OTEL_TRACES_SAMPLER"
        if not argument or _is_rate(argument):
            yield key, _raw(argument or "1", name)
        else:
            errors.warn(
                _where(name), f"kaspan ignores {shorten(argument)}, which is not a number from 0 to 1"
            )
    elif sampler:
        known = "always_on, always_off, traceidratio, and each of them after parentbased_"
        errors.warn(
            _where("OTEL_TRACES_SAMPLER"),
            f"{shorten(sampler)} is not a sampler of kaspan, which ignores it; kaspan has {known}",
        )


def _is_rate(text: str) -> bool:
    try:
        return text.isascii() and 0 <= float(text) <= 1
    except ValueError:
        return False


def _where(name: str) -> str:
    return f"environment {shorten(name)}"


def _raw(text: str, name: str) -> Node:
    return Scalar(text, "raw", _where(name))
