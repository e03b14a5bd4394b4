"""Settings under which an application runs well and no trace, or no whole one, is ever seen."""

from __future__ import annotations

from collections.abc import Iterator

from kaspan.config import Loaded, schema
from kaspan.config.display import write


def silenced(loaded: Loaded) -> list[str]:
    """Say which settings have that effect, and where each was set."""
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
    if any(map(_fits_every_topic, settings.exclude_topics)):
        yield "interceptor.exclude_topics", settings.exclude_topics, "no topic is traced"
    propagation = settings.propagation
    if not propagation.inject:
        effect = "records carry no trace, so each service's spans are traces of their own"
        yield "interceptor.propagation.inject", propagation.inject, effect
    elif not {*propagation.inject} & {*propagation.extract}:
        effect = (
            f"what is written into records is {', '.join(propagation.inject)}, so a service with these "
            "settings begins a trace of its own with each record of another"
        )
        yield "interceptor.propagation.extract", propagation.extract, effect


def _rates(sampling: schema.Sampling) -> list[float]:
    """Return the rates that can be met: the first rule that fits counts, and `rate` where none does."""
    rates = []
    for rule in sampling.rules:
        rates.append(rule.rate)
        if rule.operation is None and _fits_every_topic(rule.topic):
            return rates
    return [*rates, sampling.rate]


def _fits_every_topic(glob: str) -> bool:
    return "*" in glob and not glob.strip("*?") and glob.count("?") <= 1
