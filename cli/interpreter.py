"""What is installed for this Python, for `kaspan doctor`: which Kafka client, and is it traced?"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec

from kaspan.cli.install import InstallError, installed, was_installed
from kaspan.interceptor.accelerate import PURE_PYTHON, is_pure_python
from kaspan.wire import VERSION

OLDEST_KAFKA_PYTHON = (2, 0, 2)
_OTHER_CLIENTS = {"confluent_kafka": "confluent-kafka", "aiokafka": "aiokafka", "pykafka": "pykafka"}


def this_python() -> tuple[list[str], list[str]]:
    """Report whether programs of this Python are traced, and with which kafka-python, and what is wrong."""
    said = [f"kaspan {VERSION}, Python {platform.python_version()} at {sys.executable}"]
    if find_spec("kaspan.interceptor.compiled") is None:
        said.append(
            "kaspan is not compiled, so it costs about three times as much; pip compiles it if there are gcc "
            "and Python.h"
        )
    elif is_pure_python(os.environ):
        said.append(
            f"{PURE_PYTHON} is set, so the compiled part is not used and kaspan costs about three times "
            "as much"
        )
    owners = packages_distributions()
    clients, wrong = _kafka_clients(owners)
    said += [*clients, *_packages_beside(owners), _how_traced()]
    try:
        if was_installed():
            wrong.append(
                "pip has removed the file of `kaspan install` together with an older kaspan: run `kaspan "
                "install` again, or `kaspan uninstall` if you do not need it any more"
            )
    except InstallError as error:
        wrong.append(str(error))
    return said, wrong


def _kafka_clients(owners: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    said, wrong = [], []
    kafka = find_spec("kafka")
    found = {name: version(name) for name in owners.get("kafka", [])} if kafka else {}
    for name, number in found.items():
        said.append(f"{name} {number}")
        if tuple(map(int, re.findall(r"\d+", number)[:3])) < OLDEST_KAFKA_PYTHON:
            wrong.append(f"{name} {number} is older than 2.0.2, the oldest version that kaspan supports")
    others = ", ".join(client for module, client in _OTHER_CLIENTS.items() if find_spec(module))
    if kafka is None:
        only = f", only {others}, which kaspan does not trace" if others else ""
        wrong.append(f"kafka-python is not installed for this Python{only}: there is nothing to trace")
    elif others:
        said.append(f"{others}: installed too, and not traced by kaspan")
    if kafka is not None and not found:
        where = kafka.origin or "a folder without __init__.py"
        wrong.append(
            f"`import kafka` finds {where}, which belongs to no package that pip knows: it is not traced"
        )
    if len(found) > 1:
        wrong.append(
            f"{' and '.join(found)} are both imported as kafka, and each overwrites files of the other: "
            "uninstall all of them, and install the one that the application needs"
        )
    return said, wrong


def _packages_beside(owners: Mapping[str, Sequence[str]]) -> list[str]:
    said = []
    if find_spec("kafka") is not None and find_spec("crc32c") is None:
        said.append(
            "kafka-python computes each record's checksum in Python here, which costs more than tracing: "
            "the package crc32c more than halves the CPU time of a received record"
        )
    has_instrumentation = any("-instrumentation" in name for name in owners.get("opentelemetry", ()))
    if has_instrumentation and not all(map(_has, ("opentelemetry.sdk", "opentelemetry.exporter.zipkin"))):
        said.append(
            "spans of OpenTelemetry's instrumentations are not recorded: that takes kaspan[opentelemetry]"
        )
    return said


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _how_traced() -> str:
    files = installed()
    if files:
        return f"its programs are traced by `kaspan install` ({files[0]})"
    if any(getattr(finder, "__name__", "") == "KafkaFinder" for finder in sys.meta_path):
        return "its programs are traced here by `kaspan run`"
    return "its programs are traced only under `kaspan run` (see `kaspan install`)"
