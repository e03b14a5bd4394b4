"""`kaspan install`: trace every program of this Python, also if you cannot start it by `kaspan run`."""

from __future__ import annotations

import argparse
import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from kaspan.cli import pip_record
from kaspan.cli.path import absolute
from kaspan.cli.settings import print_errors
from kaspan.config import ConfigError, load
from kaspan.config.environment import CONFIG_VARIABLE

FILE_NAME = "kaspan.pth"
MARK = "# Made by `kaspan install`; `kaspan uninstall` takes it away."
HOOK = Path("share", "kaspan", "inject", "sitecustomize.py")

# Every start of Python runs this code, so it is small: it takes 0.2 ms. The hook itself takes 2 ms to
# compile and is read only when kafka is imported. It goes to exec() as text: compile() would give it a file
# name in tracebacks, but its first call takes 5 ms more. If kaspan was uninstalled, the code does nothing.
_FINDER = """\
class KafkaFinder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != 'kafka':
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not KafkaFinder]
        try:
            with open({path}, 'rb') as file:
                source = file.read()
        except OSError:
            return None
        hook = {{'__name__': 'kaspan_hook', '__file__': {path}}}
        exec(source, hook)
        hook['install']({variables})
        return hook['KafkaFinder'].find_spec(name, path, target)
if not any(getattr(finder, '__name__', '') == 'KafkaFinder' for finder in sys.meta_path):
    sys.meta_path.insert(0, KafkaFinder)
"""


class InstallError(Exception):
    """The file cannot be made or removed; the message says why and what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run `kaspan install`: 0 on success, 1 if the file cannot be made, 2 for wrong settings."""
    options = _parser().parse_args(arguments)
    variables: dict[str, str] = {}
    if options.config is not None:
        variables[CONFIG_VARIABLE] = options.config
    if options.service is not None:
        variables["KASPAN_SERVICE"] = options.service
    try:
        load(options.config, environ=variables)
        path = install(variables)
    except ConfigError as error:
        return print_errors("kaspan install", error)
    except InstallError as error:
        sys.stderr.write(f"kaspan install: {error}\n")
        return 1
    said = ", ".join(f"{name}={value}" for name, value in variables.items())
    sys.stdout.write(
        f"{path}: every program of {sys.prefix} that imports kafka is traced from its next start on"
        f"{f', with {said} unless its environment sets it' if said else ''}\n"
        "pip removes this file together with kaspan, also when it upgrades kaspan: then install again\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan install",
        description="Trace every program of this Python that imports kafka, without `kaspan run`: also "
        "programs that start with -E or -I, or whose environment you cannot set. `kaspan uninstall` undoes "
        "it.",
        epilog="Programs that start with -S are not traced. To change the options, install again. "
        "Environment variables win over the options.",
    )
    parser.add_argument(
        "--config", type=absolute, metavar="FILE", help="the YAML file, if KASPAN_CONFIG is not set"
    )
    parser.add_argument("--service", metavar="NAME", help="the service's name, if KASPAN_SERVICE is not set")
    return parser


def install(variables: Mapping[str, str]) -> Path:
    """Make the `.pth` file that Python reads at each start, and return where it is.

    Raises InstallError if it cannot be written, or if another program made a file with this name.
    """
    path = _directory() / FILE_NAME
    text = f"{MARK}\n{_line(find_hook(), variables)}\n"
    temporary = path.with_suffix(
        f".{os.getpid()}"
    )  # not .pth: a Python that starts now would read half of it
    try:
        if path.exists() and not _is_ours(path):
            raise InstallError(
                f"{path} exists and was not made by `kaspan install`, which does not replace it"
            )
        temporary.write_text(text, "ascii")
        temporary.replace(path)
        usage_marker().touch()
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InstallError(
            f"{path} cannot be written: {error.strerror}; run this as the user who owns "
            f"{path.parent}, or install kaspan into a virtual environment of your own"
        ) from error
    pip_record.add(path)
    return path


def installed() -> list[Path]:
    """Return the files that `kaspan install` has made for this Python."""
    return [path for path in _candidates() if _is_ours(path)]


def was_installed() -> bool:
    """Whether `kaspan install` was used and its file is gone, as after an upgrade of kaspan by pip.

    Raises InstallError if the hook is missing.
    """
    return usage_marker().exists() and not installed()


def usage_marker() -> Path:
    """Return the file that marks that `kaspan install` was used. Raises InstallError if the hook is
    missing.
    """
    return find_hook().parents[1] / "installed"


def _line(hook: Path, variables: Mapping[str, str]) -> str:
    """Return the line that Python executes at each start."""
    code = _FINDER.format(path=ascii(str(hook)), variables=ascii(dict(variables)))
    return f"import sys; exec({code!a}, {{'sys': sys}})"


def find_hook() -> Path:
    """Return the path of the hook, sitecustomize.py. Raises InstallError if it is missing."""
    prefix = sysconfig.get_path("data")  # not sys.prefix: Debian's own Python has it in /usr/local
    for place in (prefix, site.getuserbase()):
        if (Path(place) / HOOK).is_file():
            return Path(place) / HOOK
    raise InstallError(f"{Path(prefix) / HOOK} is missing: install kaspan again")


def _directory() -> Path:
    """Return the folder for the file: site-packages of this Python, or of the user if kaspan is there."""
    if Path(__file__).is_relative_to(site.getusersitepackages()):
        return Path(site.getusersitepackages())
    return Path(sysconfig.get_path("purelib"))


def _candidates() -> list[Path]:
    directories = [sysconfig.get_path("purelib"), *site.getsitepackages(), site.getusersitepackages()]
    return [Path(directory) / FILE_NAME for directory in dict.fromkeys(directories)]


def _is_ours(path: Path) -> bool:
    try:
        return path.read_text("utf-8", "replace").startswith(MARK)
    except OSError:
        return False
