"""`kaspan install` traces every program of a Python, and `kaspan uninstall` leaves no trace of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from kaspan.cli.install import HOOK, find_hook
from support.programs import INJECT, SEND, TRACED, ProgramRunner, outcome
from support.ring_reader import RingReader

pytestmark = pytest.mark.processes

TRACED_OUTPUT = (0, "True\n", "")
UNTRACED_OUTPUT = (0, "False\n", "")


class Environment(ProgramRunner):
    """A virtual environment in which kaspan and all that these tests have is installed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.prefix = directory / "it's an \u00e4nvironment"
        venv.create(self.prefix, symlinks=True, with_pip=False)
        self.python = self.prefix / "bin" / "python"
        self.site_packages = next(self.prefix.glob("lib/python*/site-packages"))
        self.pth = self.site_packages / "kaspan.pth"
        shutil.copytree(INJECT, self.prefix / "share" / "kaspan" / "inject")
        packages = sysconfig.get_path("purelib")
        (self.site_packages / "all.pth").write_text(f"import site; site.addsitedir({packages!r})\n")

    def kaspan(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of kaspan's by this environment's Python."""
        return self.run(self.python, "-m", "kaspan.cli.main", *arguments)

    def program(self, code: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program as anybody would, without `kaspan run`."""
        return self.run(self.python, *flags, "-c", code, **variables)

    def service(self, **variables: str) -> str:
        """Run a program that makes one span, and return whose it says it is."""
        assert outcome(self.program(SEND, **variables)) == (0, "", "")
        (span,) = RingReader(self.ring_dir).take()
        assert span.local_endpoint is not None
        return span.local_endpoint.service_name or ""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.mark.parametrize("flags", [[], ["-E"], ["-I"], ["-s"], ["-O"]], ids=str)
def test_installed_python_traces_its_programs(flags: list[str], environment: Environment) -> None:
    """After `kaspan install` a program is traced without `kaspan run`, also if its environment is ignored."""
    assert outcome(environment.program(TRACED, *flags)) == UNTRACED_OUTPUT

    done = environment.kaspan("install")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(environment.pth))
    assert outcome(environment.program(TRACED, *flags)) == TRACED_OUTPUT


def test_installed_python_without_kafka_loads_nothing_of_kaspans(environment: Environment) -> None:
    """A program that never imports kafka has the modules that it would have had."""
    modules = "import sys; print(*sorted(sys.modules))"
    before = environment.program(modules, "-I").stdout
    environment.kaspan("install")

    assert environment.program(modules, "-I").stdout == before


def test_uninstall_leaves_nothing(environment: Environment) -> None:
    """`kaspan uninstall` takes away all that `kaspan install` made."""
    before = sorted(environment.prefix.rglob("*"))
    environment.kaspan("install")
    done = environment.kaspan("uninstall")

    assert outcome(done) == (0, f"removed {environment.pth}\n", "")
    assert sorted(environment.prefix.rglob("*")) == before
    assert outcome(environment.program(TRACED)) == UNTRACED_OUTPUT


def test_uninstall_of_nothing_is_no_error(environment: Environment) -> None:
    """To uninstall twice succeeds, and the output says that nothing was installed."""
    assert outcome(environment.kaspan("uninstall")) == (
        0,
        f"`kaspan install` was not used for {environment.prefix}\n",
        "",
    )


def test_install_twice_is_one_installation(environment: Environment) -> None:
    """Installing again changes nothing, and a program makes each span once."""
    first = environment.kaspan("install")
    text = environment.pth.read_text()

    assert outcome(environment.kaspan("install")) == outcome(first)
    assert environment.pth.read_text() == text
    assert environment.service()


def test_options_count_where_a_program_has_no_others(environment: Environment) -> None:
    """The service's name given to install is every program's that has none in its environment."""
    environment.kaspan("install", "--service", "shop's \u00e4pp")

    assert environment.service() == "shop's \u00e4pp"
    assert environment.service(KASPAN_SERVICE="mine") == "mine"


def test_settings_file_is_found_from_anywhere(environment: Environment) -> None:
    """A file named relative to where one installs is that file, wherever a program starts."""
    (environment.directory / "kaspan.yaml").write_text("service: from-the-file\n")
    environment.kaspan("install", "--config", "kaspan.yaml")

    assert environment.service() == "from-the-file"
    done = environment.run(environment.python, "-c", SEND, cwd=environment.site_packages)
    assert outcome(done) == (0, "", "")
    (span,) = RingReader(environment.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "from-the-file"


def test_installing_again_changes_the_options(environment: Environment) -> None:
    """The options are those of the last time."""
    environment.kaspan("install", "--service", "old")
    environment.kaspan("install", "--service", "new")

    assert environment.service() == "new"


def test_bad_settings_are_not_installed(environment: Environment) -> None:
    """With a settings file that is wrong nothing is installed, and each mistake is named."""
    (environment.directory / "kaspan.yaml").write_text("interceptor: {sampling: {rate: 7}}\n")
    done = environment.kaspan("install", "--config", "kaspan.yaml")

    assert done.returncode == 2
    assert "interceptor.sampling.rate is 7" in done.stderr
    assert not environment.pth.exists()


def test_file_of_somebody_else_is_left_alone(environment: Environment) -> None:
    """A kaspan.pth that `kaspan install` did not make is neither replaced nor removed."""
    environment.pth.write_text("/somewhere\n")

    assert environment.kaspan("install").returncode == 1
    assert environment.kaspan("uninstall").returncode == 0
    assert environment.pth.read_text() == "/somewhere\n"


def test_missing_hook_is_said(environment: Environment) -> None:
    """An installation of kaspan without its hook is named, and what to do."""
    shutil.rmtree(environment.prefix / "share")
    done = environment.kaspan("install")

    assert done.returncode == 1
    assert "sitecustomize.py is missing: install kaspan again" in done.stderr


def test_hook_is_looked_for_where_pip_puts_data_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is not sys.prefix everywhere: pip of Debian's own Python installs into /usr/local."""
    shutil.copytree(INJECT, tmp_path / "share" / "kaspan" / "inject")
    monkeypatch.setattr(sysconfig, "get_path", {"data": str(tmp_path)}.get)

    assert find_hook() == tmp_path / HOOK


def test_missing_settings_file_is_named_as_it_was_given(environment: Environment) -> None:
    """A message never names a variable that was not set."""
    done = environment.kaspan("install", "--config", "nowhere.yaml")

    assert done.returncode == 2
    assert "nowhere.yaml: cannot be read" in done.stderr
    assert "KASPAN_CONFIG" not in done.stderr


def test_installed_program_under_kaspan_run_is_traced_once(environment: Environment) -> None:
    """`.pth` and `kaspan run` together make each span once, and the options of `kaspan run` win."""
    environment.kaspan("install", "--service", "installed")
    kaspan = Path(sys.executable).with_name("kaspan")
    done = environment.run(kaspan, "run", "--service", "run", "--", environment.python, "-c", SEND)

    assert outcome(done) == (0, "", "")
    (span,) = RingReader(environment.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "run"


def test_sitecustomize_of_the_users_still_runs(environment: Environment) -> None:
    """An installed kaspan does not touch a sitecustomize that was there."""
    (environment.site_packages / "sitecustomize.py").write_text("print('mine')\n")
    environment.kaspan("install")

    assert outcome(environment.program(TRACED, "-I")) == (0, "mine\nTrue\n", "")


def test_python_starts_silently_when_kaspan_is_gone(environment: Environment) -> None:
    """After `pip uninstall kaspan` alone, the file that stays does nothing and says nothing."""
    environment.kaspan("install")
    shutil.rmtree(environment.prefix / "share")

    assert outcome(environment.program(TRACED)) == UNTRACED_OUTPUT


def test_commands_of_kaspan_are_not_traced(environment: Environment) -> None:
    """What kaspan itself does with Kafka makes no spans, where everything else is traced."""
    environment.kaspan("install")

    assert outcome(environment.program("import kaspan.cli.main;" + TRACED)) == UNTRACED_OUTPUT
