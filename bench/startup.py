"""The start-up cost of `kaspan run` and `kaspan install`, and of tracing at `import kafka` and at the first
client: wall ms.

The commands take turns. The result is the median of the runs, and its difference to the plain command.

    python bench/startup.py [--runs 40]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

FIRST_CLIENT = """
import kafka
try:
    kafka.KafkaProducer(no_such_setting=True)  # refused before it connects
except Exception:
    pass
"""
RESULTS = Path(__file__).parent / "results"


def commands(bin_directory: Path, inject: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return every command by its name, with its additional environment variables."""
    python, run = sys.executable, [str(bin_directory / "kaspan"), "run", "--"]
    injected = {"PYTHONPATH": str(inject)}
    return {
        "python -c pass": ([python, "-c", "pass"], {}),
        "kaspan run -- python -c pass": ([*run, python, "-c", "pass"], {}),
        "a child: python -c pass under kaspan run": ([python, "-c", "pass"], injected),
        "python -c 'import kafka'": ([python, "-c", "import kafka"], {}),
        "a child: python -c 'import kafka' under kaspan run": ([python, "-c", "import kafka"], injected),
        "python -c 'import kafka', and a client": ([python, "-c", FIRST_CLIENT], {}),
        "a child: the same under kaspan run": ([python, "-c", FIRST_CLIENT], injected),
    }


def installed(directory: Path, inject: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Make two virtual environments, one with `kaspan install`; return the commands that start them with
    -I.
    """
    found = {}
    for name in ("python -I -c pass", "python -I -c pass after kaspan install"):
        prefix = directory / str(len(found))
        venv.create(prefix, symlinks=True, with_pip=False)
        shutil.copytree(inject, prefix / "share" / "kaspan" / "inject")
        found[name] = ([str(prefix / "bin" / "python"), "-I", "-c", "pass"], {})
    code = (
        f"import site, sys; site.addsitedir({sysconfig.get_path('purelib')!r}); sys.argv[1:] = ['install']; "
        "from kaspan.cli.main import main; sys.exit(main())"
    )
    subprocess.run([str(prefix / "bin" / "python"), "-c", code], check=True, stdout=subprocess.DEVNULL)
    return found


def main() -> None:
    """Measure, print the table and write it to a file."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=40)
    runs = arguments.parse_args().runs
    bin_directory = Path(sys.executable).parent
    inject = bin_directory.parent / "share" / "kaspan" / "inject"
    with tempfile.TemporaryDirectory() as cache:
        all_commands = commands(bin_directory, inject) | installed(Path(cache), inject)
        durations_ms: dict[str, list[float]] = {name: [] for name in all_commands}
        # Compiled modules are cached, as in an installation, even if this environment disables that.
        base = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        base["PYTHONPYCACHEPREFIX"] = cache
        for number in range(runs + 1):
            for name, (command, added) in all_commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, env=base | added)
                if number:  # the first run fills the caches
                    durations_ms[name].append((time.perf_counter() - began) * 1000)
    medians = {name: statistics.median(values) for name, values in durations_ms.items()}
    bare_ms, kafka_ms = medians["python -c pass"], medians["python -c 'import kafka'"]
    print("startup: wall ms, median; difference to the plain command")
    for name, median_ms in medians.items():
        plain = medians["python -I -c pass"] if "-I" in name else bare_ms
        plain = kafka_ms if "import" in name else plain
        plain = medians["python -c 'import kafka', and a client"] if "the same" in name else plain
        print(f"  {name:52} {median_ms:8.2f} {median_ms - plain:8.2f}")
    share = (medians["a child: python -c 'import kafka' under kaspan run"] - kafka_ms) / (kafka_ms - bare_ms)
    print(f"  on top of importing kafka: {share:.0%}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "startup.json").write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
