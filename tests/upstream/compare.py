"""Run kafka-python's own unit tests without and with kaspan, and compare test by test.

    python tests/upstream/compare.py [VERSION ...]

The tests come with kafka-python's source distribution, which pip fetches; each VERSION (3.0.12, or 2.* for
the newest 2.x) is tested with its own sources, so what is installed does not matter. Without a VERSION: the
newest. Prints a line for each version, and one for each difference. Exit code 1 if any test has another
outcome with kaspan than without; a test that fails in both is kafka-python's own affair, and only counted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

NEEDS = ("pytest-mock", "pytest-timeout")
TIMEOUT_S = 900
# Tests that need a broker are left out; some import modules that the distribution lacks, and cannot be run.
SELECTED = ("--ignore=test/integration", "--continue-on-collection-errors", "test")
PROBE = """
import kafka, sys
try: kafka.KafkaProducer(nonsense=True)
except Exception: pass
sys.exit(not hasattr(kafka.KafkaProducer.send, "__wrapped__"))
"""


def fetch(requirement: str, directory: Path) -> Path:
    """Fetch and unpack a source distribution; returns its folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "kafka-python"]
    subprocess.run([*pip, "--dest", str(directory), requirement], check=True)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    sources = directory / archive.name.removesuffix(".tar.gz")
    # Left out of the distribution. Without __init__.py the standard library's package `test` is found.
    (sources / "test" / "__init__.py").touch()
    shutil.copy(Path(__file__).parent / "fixtures.py", sources / "test" / "conftest.py")
    return sources


def outcomes(
    sources: Path, command: list[str], environment: Mapping[str, str], report: Path
) -> dict[str, str]:
    """Run the tests in `sources` by `command`; returns passed, failed or skipped by test."""
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    subprocess.run(
        [*command, sys.executable, *pytest, *SELECTED],
        cwd=sources,
        env=environment,
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=False,  # the report says what failed
    )
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def compare(requirement: str) -> bool:
    """Run one version's tests in both ways; prints the difference and returns whether there is none."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plugins = directory / "plugins"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(plugins)]
        subprocess.run([*install, *NEEDS], check=True)
        sources = fetch(requirement, directory)
        environment = os.environ | {
            "PYTHONPATH": str(plugins),
            "KASPAN_INTERCEPTOR__RING_DIR": str(directory / "rings"),
        }
        kaspan = [str(Path(sys.executable).parent / "kaspan"), "run", "--"]
        subprocess.run([*kaspan, sys.executable, "-c", PROBE], cwd=sources, env=environment, check=True)
        without = outcomes(sources, [], environment, directory / "without.xml")
        with_kaspan = outcomes(sources, kaspan, environment, directory / "with.xml")
    counts = Counter(without.values())
    different = sorted(test for test in without | with_kaspan if without.get(test) != with_kaspan.get(test))
    said = ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
    print(f"{sources.name}: {said} without kaspan; {len(different)} differ with it", flush=True)
    for test in different:
        print(f"  {test}: {without.get(test)} without, {with_kaspan.get(test)} with it")
    return bool(without) and not different


def main() -> int:
    """Compare each version that is asked for."""
    versions = sys.argv[1:]
    requirements = [f"kafka-python=={version}" for version in versions] or ["kafka-python"]
    same = [compare(requirement) for requirement in requirements]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
