"""`kaspan run`: sets the environment and becomes the command, in any POSIX shell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.programs import INJECT, KASPAN, TRACED, ProgramRunner, outcome

USAGE = "usage: kaspan run"
SHELLS = [["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"]]
INSTALLED = [words for words in SHELLS if shutil.which(words[0])]
PRINT = "import os, sys; print(*(os.environ.get(name, '-') for name in sys.argv[1:]), sep='|')"


@pytest.fixture(params=INSTALLED, ids=lambda words: words[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    """Give the command line of each of these shells that is installed here."""
    words: list[str] = request.param
    return words


FORMS = {
    "no option": ([], "-|-"),
    "service": (["--service", "orders"], "orders|-"),
    "service=": (["--service=orders"], "orders|-"),
    "service of words": (["--service", "my 'own' \"orders\" $HOME *"], "my 'own' \"orders\" $HOME *|-"),
    "service with an equals sign": (["--service=a=b"], "a=b|-"),
    "service twice": (["--service", "a", "--service=b"], "b|-"),
    "absolute config": (["--config", "/etc/kaspan.yaml"], "-|/etc/kaspan.yaml"),
    "relative config": (["--config", "kaspan.yaml"], "-|{cwd}/kaspan.yaml"),
    "relative config=": (["--config=conf/my kaspan.yaml"], "-|{cwd}/conf/my kaspan.yaml"),
    "both": (["--config", "k.yaml", "--service", "orders"], "orders|{cwd}/k.yaml"),
}


@pytest.mark.parametrize("separator", [[], ["--"]], ids=["bare", "--"])
@pytest.mark.parametrize(("options", "expected"), FORMS.values(), ids=FORMS.keys())
def test_options_become_variables_of_the_command(
    programs: ProgramRunner, shell: list[str], options: list[str], expected: str, separator: list[str]
) -> None:
    """--service and --config in both forms, any order; a relative file is meant from where the user is."""
    done = programs.run(
        *(*shell, KASPAN, "run", *options, *separator, sys.executable, "-S", "-c", PRINT),
        *("KASPAN_SERVICE", "KASPAN_CONFIG"),
    )

    assert outcome(done) == (0, expected.format(cwd=programs.directory) + "\n", "")


def test_relative_config_of_the_environment_is_made_absolute(
    programs: ProgramRunner, shell: list[str]
) -> None:
    """The application may change its directory before it imports kafka."""
    done = programs.run(
        *(*shell, KASPAN, "run", sys.executable, "-S", "-c", PRINT, "KASPAN_CONFIG"), KASPAN_CONFIG="k.yaml"
    )

    assert done.stdout == f"{programs.directory}/k.yaml\n"


@pytest.mark.parametrize("as_option", [True, False], ids=["--config", "KASPAN_CONFIG"])
def test_config_may_be_in_the_home_directory(
    programs: ProgramRunner, shell: list[str], as_option: bool
) -> None:
    """Shells leave ~ as it is in --config=~/kaspan.yaml, and containers in their variables."""
    (programs.directory / "kaspan.yaml").write_text("service: [wrong\n")
    option = ["--config=~/kaspan.yaml"] if as_option else []
    done = programs.run(
        *(*shell, KASPAN, "run", *option, sys.executable, "-c", TRACED),
        HOME=str(programs.directory),
        KASPAN_CONFIG=None if as_option else "~/kaspan.yaml",
    )

    assert f"{programs.directory}/kaspan.yaml:" in done.stderr


def test_arguments_of_the_command_are_its_own(programs: ProgramRunner, shell: list[str]) -> None:
    """After the command no word is read as kaspan's option, and none is split, expanded or lost."""
    words = ["--service", "x", "", "a b", "$HOME", "*", "--", "-h", "'", '"', "\\", "ü", "\n"]
    code = "import sys; print(sys.argv[1:])"

    done = programs.run(*shell, KASPAN, "run", "--service", "y", sys.executable, "-S", "-c", code, *words)

    assert done.stdout == f"{words}\n"


PATHS = {
    "none": (None, f"{INJECT}"),
    "empty": ("", f"{INJECT}"),
    "others": ("/a:/b", f"{INJECT}:/a:/b"),
    "ours already": (f"/a:{INJECT}:/b", f"/a:{INJECT}:/b"),
}


@pytest.mark.parametrize(("before", "after"), PATHS.values(), ids=PATHS.keys())
def test_search_path_has_our_folder_first_and_once(
    programs: ProgramRunner, shell: list[str], before: str | None, after: str
) -> None:
    """PYTHONPATH keeps what it had, and gets no empty entry, which would mean the current directory."""
    done = programs.run(*shell, KASPAN, "run", "sh", "-c", 'echo "$PYTHONPATH"', PYTHONPATH=before)

    assert done.stdout == f"{after}\n"


def test_run_inside_of_run_is_traced_once(programs: ProgramRunner) -> None:
    """A command that is itself `kaspan run` works, and the inner service counts."""
    done = programs.run(
        *(KASPAN, "run", "--service", "outer", "--", KASPAN, "run", "--service", "inner", "--"),
        *(sys.executable, "-c", f"{TRACED}; import os; print(os.environ['KASPAN_SERVICE'])"),
    )

    assert outcome(done) == (0, "True\ninner\n", "")


@pytest.mark.parametrize("code", [0, 1, 7, 127, 255])
def test_exit_code_is_the_commands(programs: ProgramRunner, shell: list[str], code: int) -> None:
    """Whatever the command exits with, kaspan run does."""
    done = programs.run(
        *shell, KASPAN, "run", "--", sys.executable, "-S", "-c", f"import sys; sys.exit({code})"
    )

    assert outcome(done) == (code, "", "")


COMMANDS = {
    "no command of that name": ("no-such-command", 127, "there is no such command on PATH"),
    "no file of that name": ("./no-such-file", 127, "there is no such file"),
    "a file that is not executable": ("./plain.py", 126, "it is not a file that can be executed"),
    "a directory": ("./folder", 126, "it is not a file that can be executed"),
}


@pytest.mark.parametrize(("command", "code", "said"), COMMANDS.values(), ids=COMMANDS.keys())
def test_command_that_cannot_be_run_is_named(
    programs: ProgramRunner, shell: list[str], command: str, code: int, said: str
) -> None:
    """The exit code is the one of every shell, and the words say that they are kaspan's."""
    (programs.directory / "plain.py").touch(mode=0o600)
    (programs.directory / "folder").mkdir()
    done = programs.run(*shell, KASPAN, "run", "--", command)

    assert outcome(done) == (code, "", f"kaspan run: {command}: {said}\n")


def test_command_reads_and_writes_the_callers_streams(programs: ProgramRunner, shell: list[str]) -> None:
    """Input, output and errors are those of kaspan run."""
    code = "import sys; sys.stderr.write('seen'); print(sys.stdin.read().upper())"
    done = programs.run(*shell, KASPAN, "run", "--", sys.executable, "-S", "-c", code, input="words")

    assert outcome(done) == (0, "WORDS\n", "seen")


def start(programs: ProgramRunner, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(word) for word in words],
        env=programs.environment,
        cwd=programs.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


WAIT = "import os, signal, sys; print(os.getpid(), flush=True); signal.pause()"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGUSR1])
def test_command_takes_the_place_of_kaspan_run(
    programs: ProgramRunner, shell: list[str], number: signal.Signals
) -> None:
    """No process stays between a supervisor and the application: the pid is its own, signals reach it."""
    with start(programs, *shell, KASPAN, "run", "--", sys.executable, "-S", "-c", WAIT) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(number)

        assert process.wait(30) == -number


def test_interrupt_is_the_applications(programs: ProgramRunner) -> None:
    """SIGINT is a KeyboardInterrupt in the application, which may do with it what it wants."""
    code = (
        "import signal\ntry:\n    print('ready', flush=True); signal.pause()\n"
        "except KeyboardInterrupt:\n    exit(9)"
    )
    with start(programs, KASPAN, "run", "--", sys.executable, "-c", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)

        assert process.wait(30) == 9


MISTAKES = {
    "no command": ([], "there is no command to run"),
    "no command after --": (["--"], "there is no command to run"),
    "an unknown option": (["--sevice", "orders", "python"], "there is no option --sevice"),
    "a short option": (["-s", "orders", "python"], "there is no option -s"),
    "a service without its value": (["--service"], "--service needs a value"),
    "a config without its value": (["--config"], "--config needs a value"),
}


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_wrong_command_line_is_refused(
    programs: ProgramRunner, shell: list[str], words: list[str], said: str
) -> None:
    """Exit code 2, what is wrong, and the usage."""
    done = programs.run(*shell, KASPAN, "run", *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kaspan run: {said}")
    assert USAGE in done.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_given(programs: ProgramRunner, shell: list[str], option: str) -> None:
    """The usage goes to standard output, with exit code 0."""
    done = programs.run(*shell, KASPAN, "run", option)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(USAGE)


def installed(directory: Path, inject: bool = True) -> Path:
    """Lay out an installation of `kaspan run` alone, and return its command."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy(KASPAN, directory / "bin" / "kaspan")
    if inject:
        (directory / "share" / "kaspan").mkdir(parents=True)
        (directory / "share" / "kaspan" / "inject").symlink_to(INJECT)
    return directory / "bin" / "kaspan"


ECHO_PATH = ["run", "--", "sh", "-c", 'echo "$PYTHONPATH"']


def test_command_finds_its_folder_wherever_it_is_started_from(programs: ProgramRunner) -> None:
    """By its path, by PATH, by a relative PATH, from its own folder, through links: the folder is found."""
    command = installed(programs.directory / "a b")
    (programs.directory / "link").symlink_to(command)
    (programs.directory / "link to link").symlink_to("link")
    found = f"{command.parent.parent}/share/kaspan/inject\n"
    path = os.environ["PATH"]
    below = command.parent / "below"
    below.mkdir()

    runs = [
        programs.run(command, *ECHO_PATH, PYTHONPATH=None),
        programs.run("a b/bin/kaspan", *ECHO_PATH, PYTHONPATH=None),
        programs.run("./kaspan", *ECHO_PATH, cwd=command.parent, PYTHONPATH=None),
        programs.run("../bin/./kaspan", *ECHO_PATH, cwd=command.parent, PYTHONPATH=None),
        programs.run("../kaspan", *ECHO_PATH, cwd=below, PYTHONPATH=None),
        programs.run("sh", "kaspan", *ECHO_PATH, cwd=command.parent, PYTHONPATH=None),
        programs.run(
            "sh", "-c", 'exec kaspan "$@"', "x", *ECHO_PATH, PATH=f"{command.parent}:{path}", PYTHONPATH=None
        ),
        programs.run(
            "sh", "-c", 'exec kaspan "$@"', "x", *ECHO_PATH, PATH=f"a b/bin:{path}", PYTHONPATH=None
        ),
        programs.run("./link", *ECHO_PATH, PYTHONPATH=None),
        programs.run(programs.directory / "link to link", *ECHO_PATH, PYTHONPATH=None),
    ]

    assert [run.stderr for run in runs] == [""] * len(runs)
    folders = {Path(run.stdout.strip()).resolve() for run in runs}
    assert folders == {Path(found.strip()).resolve()}
    assert all(Path(run.stdout.strip()).is_absolute() for run in runs)


def test_command_without_its_folder_runs_untraced_and_says_so(programs: ProgramRunner) -> None:
    """An installation that lacks the hook costs the traces and not the application."""
    command = installed(programs.directory / "broken", inject=False)
    done = programs.run(command, "run", "--", sys.executable, "-c", TRACED)

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert "sitecustomize.py is missing" in done.stderr
    assert "running untraced" in done.stderr


def test_command_without_its_python_says_so(programs: ProgramRunner) -> None:
    """A copy of the script alone has no other command, and says what to do."""
    command = installed(programs.directory / "broken")

    assert outcome(programs.run(command, "doctor")) == (
        127,
        "",
        f"kaspan: {command.parent}/kaspan-cli is missing: install kaspan again\n",
    )


def test_other_commands_are_pythons(programs: ProgramRunner) -> None:
    """Everything but `run` goes to kaspan-cli, with its arguments and its exit code."""
    assert programs.run(KASPAN, "--help").stdout.startswith("usage: kaspan COMMAND")
    assert programs.run(KASPAN, "no-such-command").returncode == 2
    assert programs.run(KASPAN).returncode == 2


@pytest.mark.processes
def test_shell_script_is_clean() -> None:
    """Shellcheck has nothing to say about the command, as a POSIX sh script."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "--shell=sh", "--norc", str(KASPAN)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")
