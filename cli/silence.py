"""Valid settings under which traces are missing or incomplete, for `kaspan doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from kaspan.config import Loaded, schema
from kaspan.config.display import write


def silenced(loaded: Loaded) -> list[str]:
    """Name each such setting, its value, where it was set, and its effect."""
    said = []
    for key, value, effect in _effects(loaded.settings.interceptor):
        said.append(f"{key} is {write(key, value)} ({loaded.origins[key]}): {effect}")
    return said


def _effects(settings: schema.Interceptor) -> Iterator[tuple[str, object, str]]:
    if not settings.enabled:
        yield "interceptor.enabled", False, "nothing is traced"
    if not any(_rates(settings.sampling)):
        effect = "no trace that begins here is recorded"
        if settings.sampling.rules:
            yield "interceptor.sampling.rules", settings.sampling.rules, effect
        else:
            yield "interceptor.sampling.rate", settings.sampling.rate, effect
    if any(map(_matches_every_topic, settings.exclude_topics)):
        yield "interceptor.exclude_topics", settings.exclude_topics, "no topic is traced"
    propagation = settings.propagation
    if not propagation.inject:
        effect = "records carry no trace context, so each service begins its own traces"
        yield "interceptor.propagation.inject", propagation.inject, effect
    elif not {*propagation.inject} & {*propagation.extract}:
        effect = (
            f"records carry {', '.join(propagation.inject)}, which these settings do not read, so a service "
            "begins a new trace with each record of another service"
        )
        yield "interceptor.propagation.extract", propagation.extract, effect


def _rates(sampling: schema.Sampling) -> list[float]:
    """Return the rates that can apply: that of the first rule that matches, and `rate` without a match."""
    rates = []
    for rule in sampling.rules:
        rates.append(rule.rate)
        if rule.operation is None and _matches_every_topic(rule.topic):
            return rates
    return [*rates, sampling.rate]


def _matches_every_topic(glob: str) -> bool:
    return "*" in glob and not glob.strip("*?") and glob.count("?") <= 1
