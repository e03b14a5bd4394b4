"""`kaspan doctor`: is this Python traced, where do its spans go, what is in its rings, and what is wrong?"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from kaspan.cli.delivery import Findings, agent_at, delivery
from kaspan.cli.interpreter import this_python
from kaspan.cli.rings import Ring, Survey, survey
from kaspan.cli.room import room_for_rings
from kaspan.cli.settings import add_config_option, print_errors
from kaspan.cli.silence import silenced
from kaspan.cli.untraced import untraced_processes
from kaspan.config import ConfigError, Loaded, load, schema
from kaspan.interceptor.reporters.http_client import ReportClient
from kaspan.interceptor.reporters.ring_dir import MAX_UNREAD_ORPHANS, RingDirError, is_read, open_ring_dir
from kaspan.wire import VERSION

HTTP_TIMEOUT_S = 3.0
_MIN_SHARE = 0.1
"""Some records without a length are usual: those that a loop was left before."""
_COLUMNS = (
    *("service", "pid", "owner", "written", "dropped", "unread", "suppressed"),
    *("kaspan", "kafka-python", "Python"),
)


def main(arguments: Sequence[str]) -> int:
    """Run `kaspan doctor`: 0 if nothing is wrong, 1 if something is, 2 if the settings are wrong."""
    parser = argparse.ArgumentParser(
        prog="kaspan doctor",
        description="Print whether this Python is traced, where its spans go, what is in its rings, and what "
        "is wrong, as it would be for an application that starts here and now.",
        epilog="Exit code 0: nothing is wrong. 1: something is. 2: the settings are.",
    )
    add_config_option(parser)
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        # As an application reads them, to which a mistake in the agent's section is a warning.
        loaded = load(options.config, side="interceptor")
    except ConfigError as error:
        return print_errors("kaspan doctor", error)
    found = examine(loaded)
    sys.stdout.writelines(f"{line}\n" for line in found.said)
    nothing = "Nothing is wrong." if found.is_known else "Nothing that can be seen from here is wrong."
    sys.stdout.write(f"\n{nothing}\n" if not found.wrong else "\nWhat is wrong:\n")
    sys.stdout.writelines(f"- {line}\n" for line in found.wrong)
    return 1 if found.wrong else 0


def examine(loaded: Loaded) -> Findings:
    """Examine everything: returns the lines of the report, what is wrong, and whether the agent answered.

    If spans go by HTTP, each step blocks for at most HTTP_TIMEOUT_S. Asking the agent blocks as `ask` does.
    """
    said, wrong = this_python()
    for line in loaded.warnings:
        (said if line in loaded.foreign_warnings else wrong).append(f"settings: {line}")
    wrong += silenced(loaded)
    wrong += untraced_processes()
    interceptor = loaded.settings.interceptor
    agent: schema.Agent | None = loaded.settings.agent
    if interceptor.agent == "ring":
        more, also = all_rings(loaded)
    else:
        more, also = http_agent(interceptor.agent, interceptor.token)
        agent = agent_at(interceptor.agent, interceptor.token, loaded.settings.agent)
    if agent is None:
        return Findings((*said, *more), (*wrong, *also))
    asked = delivery(agent)
    return Findings((*said, *more, "", *asked.said), (*wrong, *also, *asked.wrong), asked.is_known)


def all_rings(loaded: Loaded) -> tuple[list[str], list[str]]:
    """Report the rings in the ring directory and in its fallback on disk, and the room for more."""
    said, wrong = ring_directory(loaded)
    settings, on_disk = loaded.settings.interceptor, schema.default_fallback_dir()
    left, short = room_for_rings(settings)
    if settings.ring_dir == schema.default_ring_dir() and os.path.isdir(on_disk):
        try:
            found, has_agent = survey(on_disk), is_read(on_disk)
        except OSError as error:
            return [*left, *said], [*wrong, *short, f"{on_disk} cannot be read: {error.strerror}"]
        if found.rings or found.unreadable:
            said += ["", f"rings that did not fit there are in {on_disk}", "", *table(found.rings)]
            wrong += judge(on_disk, found, has_agent)
    return [*left, *said], [*wrong, *short]


def ring_directory(loaded: Loaded) -> tuple[list[str], list[str]]:
    """Report the rings in the ring directory, and whether an agent reads it."""
    path, read = loaded.settings.interceptor.ring_dir, loaded.settings.agent.ring_dirs
    said = [f"spans go into rings in {path}"]
    wrong: list[str] = []
    # In a container of its own an application does not know agent.ring_dirs: then the agent's lock decides.
    is_known = loaded.origins["agent.ring_dirs"] != "default"
    if path not in read and (is_known or not is_read(path)):
        wrong.append(
            f"with these settings applications write to {path} (interceptor.ring_dir) and an agent reads "
            f"{', '.join(read)} (agent.ring_dirs): set both to the same directory"
        )
    if not os.path.lexists(path):
        wrong.append(f"no agent reads {path}, so there are no traces: start `kaspan agent`")
        return [*said, "it does not exist yet: no traced program has made a span, and no agent runs"], wrong
    try:
        os.close(open_ring_dir(path))
        has_agent, found = is_read(path), survey(path)
    except RingDirError as error:
        return said, [*wrong, str(error)]
    except OSError as error:
        return said, [*wrong, f"{path} cannot be read: {error.strerror}"]
    said.append("an agent reads it" if has_agent else "no agent reads it")
    if found.rings:
        said += ["", *table(found.rings)]
    shares = [share for share in map(_share_without_length, found.rings) if share]
    if not shares or loaded.settings.interceptor.functions:
        return said + shares, wrong + judge(path, found, has_agent)
    advice = (
        "The application does not work on them in a loop over poll()'s lists: a wrapper copies these lists, "
        "or takes records by index. Name the functions that work on a record, or on a batch, in "
        "interceptor.functions (docs/functions.md)"
    )
    return said, [*wrong, *judge(path, found, has_agent), *(f"{share}. {advice}" for share in shares)]


def _share_without_length(ring: Ring) -> str:
    """Say how many of a process's polled records have a span of no length; nothing if they are few."""
    if not ring.polled_records or ring.without_length < _MIN_SHARE * ring.polled_records:
        return ""
    who = f"{ring.field('service')} (pid {ring.field('pid')})"
    share = min(1.0, ring.without_length / ring.polled_records)
    polled = f"{ring.polled_records} records that poll() returned to {who}"
    return f"of {polled}, {share:.0%} have a span of no length"


def table(rings: Iterable[Ring]) -> list[str]:
    """Return one line for each ring, in columns."""
    rows = [_COLUMNS, *map(_row, rings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _row(ring: Ring) -> tuple[str, ...]:
    return (
        ring.field("service"),
        ring.field("pid"),
        "alive" if ring.is_owned else "gone",
        f"{ring.written_spans} spans",
        str(ring.dropped_spans),
        f"{ring.unread_bytes} B",
        str(ring.suppressed_errors),
        *map(ring.field, ("kaspan", "kafka_python", "python")),
    )


def judge(path: str, found: Survey, has_agent: bool) -> list[str]:
    """List in words what is wrong with the rings of a directory."""
    wrong = [f"{said}: not a span ring" for said in found.unreadable]
    if not has_agent and any(ring.unread_bytes for ring in found.rings):
        wrong.append(f"spans wait in {path} and no agent reads them: start `kaspan agent`")
    elif not has_agent:
        wrong.append(f"no agent reads {path}, so there are no traces: start `kaspan agent`")
    orphans = sum(not ring.is_owned and not ring.has_been_read for ring in found.rings)
    if orphans >= MAX_UNREAD_ORPHANS:
        wrong.append(
            f"{orphans} rings of ended processes were never read, so new processes are not traced: "
            "start `kaspan agent`"
        )
    for ring in found.rings:
        who = f"{ring.field('service')} (pid {ring.field('pid')})"
        if ring.dropped_spans:
            wrong.append(
                f"{who} has dropped {ring.dropped_spans} spans because its ring was full: the agent did not "
                "run, or its spool was full, or interceptor.ring_bytes is too small"
            )
        if has_agent and ring.unread_bytes * 2 > ring.data_bytes:
            wrong.append(f"the ring of {who} is more than half full: the agent does not keep up")
        if ring.suppressed_errors:
            wrong.append(
                f"kaspan has failed {ring.suppressed_errors} times in {who}: its log has a warning of the "
                "logger kaspan for the first failure of each kind"
            )
        if ring.field("kaspan") != VERSION:
            wrong.append(f"{who} runs kaspan {ring.field('kaspan')}, and this command is {VERSION}")
    return wrong


def http_agent(address: str, token: str) -> tuple[list[str], list[str]]:
    """Post an empty list of spans to `address`, and report the answer."""
    said = [f"spans go by HTTP to {address}"]
    try:
        answer = ReportClient(address, token).post([], HTTP_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 (a wrong address may raise anything)
        return said, [f"{address} cannot be reached: {type(error).__name__}: {error}"]
    if 200 <= answer.status < 300:
        return [*said, "it accepts them"], []
    return said, [f"{address} does not accept spans: {answer.text}"]
