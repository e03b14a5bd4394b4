"""What `pip install` puts where: the folders become `kaspan.*`, and nothing else reaches anybody's Python."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kaspan.wire import VERSION
from support.programs import FIRST_CLIENT

ROOT = Path(__file__).parents[2]
NOT_PACKAGED = {"tests", "bench", "docs", "build", "dist"}
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
NAME = f"kaspan-{SETUP['metadata']['version']}"
INSTALL_TIMEOUT_S = 600


def lines_of(section: str, key: str) -> list[str]:
    return SETUP[section][key].split("\n")[1:]


def module_files() -> set[str]:
    """Return every Python file of the packaged folders, as a path from the root."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    files = (file.relative_to(ROOT) for folder in folders for file in folder.rglob("*.py"))
    return {str(file) for file in files if file.parts[0] not in NOT_PACKAGED}


def run(*command: str | Path, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout, and without what this Python or its user has set."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "KASPAN_", "OTEL_"))
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env={**kept, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def copied(directory: Path) -> Path:
    """Copy the checkout: building leaves files behind."""
    left_out = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "target", "__pycache__", "compiled.*.so"
    )
    return Path(shutil.copytree(ROOT, directory / "kaspan", ignore=left_out))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the sdist, as an index's users get it."""
    made = tmp_path_factory.mktemp("made")
    copy = copied(made)
    run(sys.executable, "-m", "build", "--outdir", made, copy, directory=made)
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install kaspan with the extras that users install into a new virtual environment; return its folder."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", venv, directory=wheel.parent)
    pip = (venv / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", f"{wheel}[agent,demo]", directory=wheel.parent)
    return venv


APPLICATION = ("kafka-python-ng", "opentelemetry-api==1.27.0", "opentelemetry-instrumentation-dbapi==0.48b0")
"""An application's own: a fork of kafka-python, and OpenTelemetry of a version that it is held to."""
NEEDED = {"kaspan", "msgspec", "pyyaml", "opentelemetry-api", "typing-extensions"}
"""What the interceptor imports, and what opentelemetry-api does."""


class Environment:
    """A virtual environment, and what is installed in it."""

    def __init__(self, venv: Path, *packages: str | Path) -> None:
        self.bin = venv / "bin"
        run(sys.executable, "-m", "venv", venv, directory=venv.parent)
        self.install(*packages)

    def install(self, *packages: str | Path) -> None:
        pip = (self.bin / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "install", *packages, directory=self.bin)

    def packages(self) -> dict[str, str]:
        """Return the name of each installed package and its version."""
        code = "from importlib.metadata import distributions as d; [print(p.name, p.version) for p in d()]"
        listed = run(self.bin / "python", "-I", "-c", code, directory=self.bin).stdout.splitlines()
        return {
            name.lower().replace("_", "-"): version for name, version in (line.split() for line in listed)
        }


@pytest.fixture(scope="module")
def beside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, dict[str, str]]:
    """Install kaspan into an application's environment; return that, and what was in it before."""
    environment = Environment(tmp_path_factory.mktemp("beside") / "venv", *APPLICATION)
    before = environment.packages()
    environment.install(wheel)
    return environment, before


def test_setup_cfg_names_every_folder_that_is_a_package() -> None:
    """The packages in setup.cfg are the folders on disk: none forgotten, none kept."""
    on_disk = {Path(file).parent for file in module_files() if file.endswith("/__init__.py")}

    assert sorted(lines_of("options", "packages")) == sorted(
        ".".join(("kaspan", *path.parts)) for path in on_disk
    )


def test_setup_cfg_maps_every_top_folder_into_the_namespace() -> None:
    """Each packaged folder is mapped to `kaspan.<folder>`, so that none is installed under its own name."""
    top = {Path(file).parts[0] for file in module_files()}

    assert set(lines_of("options", "package_dir")) == {f"kaspan.{folder} = {folder}" for folder in top}


def test_every_linter_looks_at_every_top_package() -> None:
    """Both mypy and import-linter name the same top packages as package_dir does."""
    mapped = {line.partition(" = ")[0] for line in lines_of("options", "package_dir")}

    assert set(SETUP["mypy"]["packages"].split(", ")) == mapped
    assert set(lines_of("importlinter", "root_packages")) == mapped


def test_setup_cfg_and_code_name_one_version() -> None:
    """What a process says of its kaspan is the version of the package."""
    assert SETUP["metadata"]["version"] == VERSION


def test_wheel_holds_every_module_and_nothing_outside_kaspan(wheel: Path) -> None:
    """The wheel has each Python file of the folders once, under kaspan/ or as data, and nothing else."""
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    data = [name.partition(".data/")[2] for name in names if ".data/" in name]
    modules = [name for name in names if name.endswith(".py") and ".data/" not in name]

    assert {name.split("/")[0] for name in names} == {"kaspan", f"{NAME}.data"}
    assert sorted(data) == ["data/share/kaspan/inject/sitecustomize.py", "scripts/kaspan"]
    assert sorted(modules) == sorted(
        f"kaspan/{file}" for file in module_files() if file != "interceptor/inject/sitecustomize.py"
    )


@pytest.mark.processes
@pytest.mark.parametrize("editable", [[], ["--editable"]])
def test_installation_works_without_a_compiler(tmp_path: Path, editable: list[str]) -> None:
    """Where compiling fails, all else is installed, a checkout as well."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", directory=tmp_path)
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", *editable, copied(tmp_path), directory=tmp_path, CC="false")
    names = ("kaspan.interceptor.failures", "kaspan.interceptor.compiled")
    find = f"from importlib.util import find_spec; print(*(find_spec(name) is not None for name in {names}))"
    found = run(python, "-c", find, directory=tmp_path)

    assert found.stdout == "True False\n"


@pytest.mark.skipif(
    not (os.environ.get("CI") or shutil.which("cc")), reason="there is no C compiler (Debian: gcc libc6-dev)"
)
def test_installation_is_compiled(installed: Path) -> None:
    """Where there is a C compiler, the way of the ordinary record is compiled when kaspan is installed."""
    run(installed / "bin" / "python", "-c", "import kaspan.interceptor.compiled", directory=installed)


def test_wheel_says_that_every_package_is_typed(wheel: Path) -> None:
    """Each top package carries py.typed, so that users' type checkers read its annotations."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {Path(file).parts[0] for file in module_files()}

    assert {name for name in names if name.endswith("py.typed")} == {
        f"kaspan/{name}/py.typed" for name in top
    }


def test_install_brings_what_the_interceptor_imports_and_nothing_else(
    beside: tuple[Environment, dict[str, str]],
) -> None:
    """`pip install kaspan` adds no package that other libraries use if it is there, as requests or uvloop."""
    environment, before = beside

    assert environment.packages().keys() - before.keys() <= NEEDED


def test_install_changes_nothing_of_the_applications(beside: tuple[Environment, dict[str, str]]) -> None:
    """What an application had keeps its version: no other kafka-python, and no other OpenTelemetry."""
    environment, before = beside

    assert {name: environment.packages().get(name) for name in before} == before


def test_agent_beside_an_application_leaves_its_kafka_alone(
    beside: tuple[Environment, dict[str, str]], wheel: Path
) -> None:
    """Also with the agent's packages, which belong elsewhere, `kafka` is the application's own."""
    environment, before = beside
    environment.install(f"{wheel}[agent]")
    found = run(
        environment.bin / "python", "-c", "import kafka; print(kafka.__version__)", directory=environment.bin
    )

    assert found.stdout.strip() == before["kafka-python-ng"]
    assert "kafka-python" not in environment.packages()


def test_install_traces_kafka_python_ng(beside: tuple[Environment, dict[str, str]], tmp_path: Path) -> None:
    """With the fork, and without OpenTelemetry's SDK, an unchanged application is traced."""
    environment, _ = beside
    application = (
        f"import kafka; {FIRST_CLIENT}; print(kafka.KafkaProducer.send.__wrapped__.__qualname__)\n"
        "from opentelemetry import trace; print(trace.get_tracer('own').start_span('own').is_recording())"
    )
    done = run(
        *(environment.bin / "kaspan", "run", "--", environment.bin / "python", "-c", application),
        directory=tmp_path,
        KASPAN_INTERCEPTOR__RING_DIR=str(tmp_path / "rings"),
    )

    assert (done.stdout, done.stderr) == ("KafkaProducer.send\nFalse\n", "")


def test_pip_removes_what_kaspan_install_made(
    beside: tuple[Environment, dict[str, str]], wheel: Path
) -> None:
    """After `pip uninstall kaspan` nothing of it is there, so that a kaspan that comes back traces nobody."""
    environment, _ = beside
    python, site_packages = (
        environment.bin / "python",
        next(environment.bin.parent.glob("lib/python*/site-packages")),
    )
    record = site_packages / f"{NAME}.dist-info" / "RECORD"
    before = record.read_text()
    run(environment.bin / "kaspan", "install", directory=environment.bin)
    run(environment.bin / "kaspan", "uninstall", directory=environment.bin)
    assert record.read_text() == before

    run(environment.bin / "kaspan", "install", directory=environment.bin)
    assert (site_packages / "kaspan.pth").exists()
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "kaspan", directory=environment.bin)
    assert not (site_packages / "kaspan.pth").exists()

    environment.install("--no-deps", wheel)
    said = subprocess.run([environment.bin / "kaspan", "doctor"], capture_output=True, text=True, check=False)
    assert "pip has removed the file of `kaspan install`" in said.stdout


def test_install_adds_one_name_to_pythons_path(installed: Path) -> None:
    """Beside kaspan and its metadata, the installed distribution puts no file where Python imports from."""
    listing = "import importlib.metadata as m; print(*m.files('kaspan'), sep='\\n')"
    files = run(installed / "bin" / "python", "-I", "-c", listing, directory=installed).stdout.split("\n")
    imported_from = {file.split("/")[0] for file in files if file and not file.startswith("../")}

    assert imported_from == {"kaspan", f"{NAME}.dist-info"}


def test_install_is_complete_enough_to_say_what_it_can_do(installed: Path) -> None:
    """`kaspan --help` of a fresh installation names its commands."""
    said = run(installed / "bin" / "kaspan", "--help", directory=installed).stdout

    assert all(f"kaspan {command}" in said for command in ("run", "agent", "demo", "config"))


def test_install_traces_an_application_that_imports_kafka(installed: Path, tmp_path: Path) -> None:
    """`kaspan run` of a fresh installation patches the producer of an unchanged application."""
    application = f"import kafka; {FIRST_CLIENT}; print(kafka.KafkaProducer.send.__wrapped__.__qualname__)"
    done = run(
        installed / "bin" / "kaspan",
        *("run", "--service", "shop", "--", installed / "bin" / "python", "-c", application),
        directory=tmp_path,
        KASPAN_INTERCEPTOR__RING_DIR=str(tmp_path / "rings"),
    )

    assert done.stdout == "KafkaProducer.send\n"
    assert done.stderr == ""


def test_sender_of_another_package_is_found_when_it_is_installed(installed: Path) -> None:
    """The example of docs/senders.md, installed as any package, is a type that agent.senders may name."""
    example = shutil.copytree(ROOT / "docs" / "examples" / "kaspan-file-sender", installed.parent / "example")
    pip = (installed / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", example, directory=installed)
    senders = "[{type: file, path: /tmp/spans}]"
    shown = run(installed / "bin" / "kaspan", "config", directory=installed, KASPAN_AGENT__SENDERS=senders)

    assert "[{type: file, path: /tmp/spans, sync: true}]" in shown.stdout
