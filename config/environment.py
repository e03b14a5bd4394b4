"""Settings from the environment: KASPAN_* for every key, and what OpenTelemetry's own variables say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce

import msgspec

from kaspan.config.document import Items, Map, Node, Scalar
from kaspan.config.errors import Errors, closest, shorten, suggest
from kaspan.config.keys import VARIABLE_PREFIX, key_of, type_of, types, variable
from kaspan.config.schema import Settings

CONFIG_VARIABLE = "KASPAN_CONFIG"
NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "KASPAN_INJECT"})
"""Ours, and read elsewhere: the settings file's name, and what `kaspan run` tells its children."""

PROPAGATORS = ("b3", "b3multi", "tracecontext")
SAMPLER_RATES = {"always_on": "1", "always_off": "0"}


def own(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    """Yield dotted key and node for each KASPAN_ variable that is set, sections before their own keys.

    A variable that is empty counts as not set, so that a deployment's template may leave it blank; except
    where empty text is a value of its own. Unknown variables are added to `errors`, as warnings where
    they can be somebody else's, such as a Dockerfile's KASPAN_VERSION.
    """
    names = [name for name in environ if name.startswith(VARIABLE_PREFIX) and name not in NOT_SETTINGS]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        key = key_of(name)
        if key is None:
            if not _is_of_kubernetes(name):
                _unknown(name, errors)
        elif environ[name] or _means_something_empty(key):
            yield key, _raw(environ[name], name)


def _unknown(name: str, errors: Errors) -> None:
    said, where = "there is no setting of this name", _where(name)
    if errors.full:
        errors.leave(where, said)
        return
    meant = {_as_one_word(variable(key)): key for key in types()}.get(_as_one_word(name))
    section = next((one for one in ("interceptor", "agent") if name.startswith(f"{variable(one)}__")), None)
    if meant is not None:
        errors.add(where, f"{said}; did you mean {variable(meant)}?", meant, is_unknown=True)
    elif section is not None:
        errors.add(where, f"{said}; {suggest(name, map(variable, types()))}", section, is_unknown=True)
    else:
        # Without the prefix, which makes all of them look alike.
        close = closest(
            name.removeprefix(VARIABLE_PREFIX), (key.replace(".", "__").upper() for key in types())
        )
        errors.leave(where, f"{said}{f'; did you mean {VARIABLE_PREFIX}{close}?' if close else ''}")


def _as_one_word(name: str) -> str:
    """Write a variable's name as those do who forget that sections are joined by two underscores."""
    return name.upper().replace("_", "")


def _means_something_empty(key: str) -> bool:
    default: object = reduce(getattr, key.split("."), Settings())
    try:
        msgspec.convert("", type_of(key))
    except msgspec.ValidationError:
        return False
    return default != ""


def _is_of_kubernetes(name: str) -> bool:
    """Tell whether Kubernetes made the variable because a Service is called kaspan or kaspan-something.

    Source: "Discovering services" in the Kubernetes documentation of Service.
    """
    import re

    pattern = (
        r"KASPAN(_[A-Z0-9]+)*"
        r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
    )
    return re.fullmatch(pattern, name) is not None


def opentelemetry(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    """Yield dotted key and node for each of OpenTelemetry's variables that has a meaning here.

    An empty one counts as not set. The application's own SDK reads them too: what kaspan cannot follow in
    them is a warning in `errors`, and as if it were not set.

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
    # Baggage needs nothing done: headers that are not a trace's context are passed on as they are.
    for name in names:
        if name not in (*PROPAGATORS, "baggage", "none"):
            errors.leave(
                where,
                f"{shorten(name)} is not a propagator that kaspan has, and is left to others; kaspan's are "
                f"{', '.join(PROPAGATORS)}",
            )
    chosen = [] if "none" in names else [name for name in names if name in PROPAGATORS]
    if not chosen and not {"baggage", "none"} & {*names}:
        return  # all of them are for another tracer
    for key in ("inject", "extract"):
        yield f"interceptor.propagation.{key}", Items([Scalar(name, "word", where) for name in chosen], where)


def _sampler(environ: Mapping[str, str], errors: Errors) -> Iterator[tuple[str, Node]]:
    key = "interceptor.sampling.rate"
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    # A decision that came with a record is always kept: every sampler is parent based here.
    kind = sampler.removeprefix("parentbased_")
    if kind in SAMPLER_RATES:
        yield key, _raw(SAMPLER_RATES[kind], "OTEL_TRACES_SAMPLER")
    elif kind == "traceidratio":
        argument = environ.get("OTEL_TRACES_SAMPLER_ARG")
        name = "OTEL_TRACES_SAMPLER_ARG" if argument else "OTEL_TRACES_SAMPLER"
        if not argument or _is_rate(argument):
            yield key, _raw(argument or "1", name)
        else:
            errors.leave(_where(name), f"{shorten(argument)} is not a number from 0 to 1, and is left aside")
    elif sampler:
        known = "always_on, always_off, traceidratio, and each of them after parentbased_"
        errors.leave(
            _where("OTEL_TRACES_SAMPLER"),
            f"{shorten(sampler)} is not a sampler that kaspan has, and is left to others; "
            f"kaspan's are {known}",
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
