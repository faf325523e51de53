"""All commands alike: help at once, one message with its status for whatever goes wrong, nothing swallowed."""

import errno
import importlib
import os
import re
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import typer

from qkov import cli, errors
from qkov.commands import console

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "numpy", "pandas", "xarray", "scipy", "matplotlib", "yaml", "rich")
HELP_SECONDS = 0.5

# The first thing that a command calls with its arguments, and arguments that it takes.
TWO_TASKS = ["--task", "a=a.jsonl", "--task", "b=b.jsonl"]
FIRST_CALLS = {
    "inspect": ("qkov.model_loading.load_model", ["m"]),
    "check": ("qkov.model_loading.load_model", ["m"]),
    "plan": ("qkov.model_loading.load_model", ["m", "--samples-a", "1", "--samples-b", "1", "--tokens", "2"]),
    "run": ("qkov.running.run_measurement", ["--model", "m", *TWO_TASKS, "--out", "r"]),
    "report": ("qkov.run_folder.open_run", ["r"]),
    "test": ("qkov.run_folder.open_run", ["RUN"]),
    "compare": ("qkov.comparison.compare_runs", ["r", "s"]),
    "store info": ("qkov.store_repair.store_info", ["s"]),
    "store verify": ("qkov.store_repair.verify_store", ["s"]),
    "store repair": ("qkov.store_repair.repair_store", ["s"]),
}

# Arguments, exit status, and what the message must say: what was seen, and what to do.
BAD_INPUT = {
    "inspect": [
        (["./missing"], 4, "no folder './missing'; expected a folder"),
        (["EMPTY"], 4, "cannot be loaded by transformers"),
        (["m", "--seed", "one"], 2, "'--seed'"),
    ],
    "check": [
        (["./missing"], 4, "no folder './missing'; expected a folder"),
        (["EMPTY"], 4, "cannot be loaded by transformers"),
        (["m", "--only", "gravity"], 2, "'gravity' is no law; expected one of"),
        (["m", "--only", "ids", "--layout-only"], 2, "give one of them"),
        (["m", "--task", "math.jsonl"], 2, "expected two, as in --task math=math.jsonl"),
        (["m", "--task", "a=x", "--task", "a=y"], 2, "expected two"),
        (["m", "--format", "poem"], 2, "'poem'"),
    ],
    "plan": [
        (
            ["./missing", "--samples-a", "1", "--samples-b", "1", "--tokens", "2"],
            4,
            "no folder './missing'; expected a folder",
        ),
        (["m", "--samples-a", "1", "--samples-b", "1"], 2, "--tokens"),
    ],
    "run": [
        ([], 2, "expected a configuration file, or --model"),
        (["missing.yaml", "--out", "r"], 2, "cannot read the configuration 'missing.yaml'.*Expected a YAML file"),
        (["DAMAGED", "--out", "r"], 2, "DAMAGED"),
        (["--model", "m", "--task", "a=a.jsonl", "--out", "r"], 2, "expected two at least"),
        (["--model", "m", *TWO_TASKS, "--out", "r"], 3, "cannot read the task file 'a.jsonl'.*Expected JSON lines"),
        (["--model", "m", *TWO_TASKS, "--dtype", "int8", "--out", "r"], 2, "'int8'"),
    ],
    "report": [(["missing"], 3, "missing"), (["EMPTY"], 3, "is no run")],
    "test": [
        (["missing"], 3, "holds no store.*Check the path"),
        (["EMPTY"], 3, "holds no store.*Check the path"),
        (["RUN", "--alpha", "much"], 2, "'--alpha'"),
        (["RUN", "--clusters", "many"], 2, "'many'"),
        (["EDITED"], 3, "Make the run again"),
    ],
    "compare": [
        (["missing", "EMPTY"], 2, "expected two run folders, or two files of scores"),
        (["EMPTY", "EMPTY"], 3, "is no run.*Make one with"),
        (["missing", "missing"], 3, "'missing': No such file or directory. Check the path"),
        (["DAMAGED", "DAMAGED"], 3, "not a whole safetensors file.*save the result again"),
        (["EDITED", "EDITED"], 3, "Make the run again"),
        (["r", "s", "--expect", "D7"], 2, "'D7'"),
        (["r"], 2, "RUN_2"),
    ],
    "store info": [(["missing"], 3, "holds no store.*Check the path"), (["EMPTY"], 3, "holds no store")],
    "store verify": [(["missing"], 3, "holds no store.*Check the path"), (["STORE"], 5, "damaged.*|header")],
    "store repair": [(["missing"], 3, "holds no store.*Check the path")],
}


def names(group=None, prefix=""):
    """Every command, "store info" for those of a group."""
    group = typer.main.get_command(cli.app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from names(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


COMMANDS = sorted(names())


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder; ``(status, stdout, stderr)``."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)

    def run(command, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main("qkov", [*command.split(), *map(str, arguments)])
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return run


@pytest.fixture
def damaged(tmp_path):
    """Folders and files that are not what they are taken for."""
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "DAMAGED").write_bytes(b"\x10" * 64)
    (tmp_path / "EDITED").mkdir()
    (tmp_path / "EDITED" / "run.json").write_text('{"format": "qkov-run-1", "status": "complete"}')
    (tmp_path / "STORE").mkdir()
    (tmp_path / "STORE" / "store.json").write_text("{}")
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "run.json").write_text("{}")


def one_message(err):
    """What a failing command said: its one message, no traceback."""
    assert "Traceback" not in err
    assert len(re.findall(r"^error: ", err, flags=re.MULTILINE)) == 1, err
    return err.partition("error: ")[2]


def test_no_command_is_left_out():
    """A new command needs an entry in both tables."""
    assert set(COMMANDS) <= set(FIRST_CALLS), "which function does it call first?"
    assert set(COMMANDS) <= set(BAD_INPUT), "which input must it refuse?"


@pytest.mark.parametrize(
    ("command", "arguments", "status", "said"),
    [(name, *case) for name in COMMANDS for case in BAD_INPUT.get(name, [])],
    ids=lambda value: value if isinstance(value, str) and len(value) < 12 else None,
)
def test_bad_input_is_one_message_with_a_remedy(call, damaged, command, arguments, status, said):
    code, out, err = call(command, *arguments)
    assert code == status, err
    assert re.search(said, one_message(err), flags=re.DOTALL), err
    if command != "store verify":  # which tells all that it found before it ends
        assert out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option_is_usage(call, command):
    code, out, err = call(command, "--no-such-option")
    assert (code, out) == (2, "")
    assert "--no-such-option" in one_message(err)
    assert f"qkov {command} --help" in err


INJECTED = [
    (
        PermissionError(errno.EACCES, "Permission denied", "place"),
        3,
        "'place': Permission denied. Change the permissions",
    ),
    (OSError(errno.ENOSPC, "No space left on device", "place"), 7, "Free some space"),
    (MemoryError(), 8, "more memory than there is"),
    (errors.LayoutError("no heads. Register them."), 4, "no heads. Register them."),
    (errors.CollectionInterrupted("interrupted by SIGINT: run it again"), 130, "run it again"),
]


@pytest.mark.parametrize(("raised", "status", "said"), INJECTED, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_error_of_the_system_is_one_message(call, damaged, monkeypatch, command, raised, status, said):
    code, out, err = failing(call, monkeypatch, command, raised)
    assert (code, out) == (status, ""), err
    assert said in one_message(err)


@pytest.mark.parametrize("command", COMMANDS)
def test_interruption_is_130(call, damaged, monkeypatch, command):
    assert failing(call, monkeypatch, command, KeyboardInterrupt()) == (130, "", "interrupted\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_reader_that_went_away_is_no_error(call, damaged, monkeypatch, command):
    monkeypatch.setattr(console, "_leave_output", lambda: None)
    assert failing(call, monkeypatch, command, BrokenPipeError(errno.EPIPE, "Broken pipe")) == (141, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_defect_is_not_swallowed(call, damaged, monkeypatch, command):
    with pytest.raises(ZeroDivisionError, match="a defect"):
        failing(call, monkeypatch, command, ZeroDivisionError("a defect"))


@pytest.mark.parametrize("command", COMMANDS)
def test_traceback_is_shown_when_asked(call, damaged, monkeypatch, command):
    code, _, err = failing(call, monkeypatch, command, errors.OptionError("no"), "--traceback")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("error: no\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_warning_is_one_line(call, damaged, monkeypatch, command):
    def warn(*arguments, **options):
        warnings.warn("few \x1b[31m samples", errors.StatisticsWarning, stacklevel=1)
        raise errors.OptionError("no")

    _, _, err = failing(call, monkeypatch, command, warn)
    assert err.splitlines()[-2:] == ["warning: few \\x1b[31m samples", "error: no"]


def failing(call, monkeypatch, command, raised, *options):
    """Run a command whose first call raises."""
    place, arguments = FIRST_CALLS[command]
    module, _, name = place.rpartition(".")

    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(importlib.import_module(module), name, raised if callable(raised) else fail)
    return call(command, *arguments, *options)


@pytest.mark.parametrize("traceback", [False, True], ids=["short", "traceback"])
def test_defect_says_its_class_and_ends_with_1(traceback):
    code = "import qkov.store_repair, qkov.cli\ndef fail(path): raise ZeroDivisionError('x / \\x1b')\n"
    code += "qkov.store_repair.store_info = fail\nqkov.cli.main()"
    done = program(["-c", code, "store", "info", "s", *(["--traceback"] if traceback else [])])
    assert done.returncode == 1
    assert done.stdout == ""
    if traceback:
        assert done.stderr.startswith("Traceback")
        assert "in fail" in done.stderr
    else:
        assert one_message(done.stderr).startswith("ZeroDivisionError: x / \\x1b\nThis is a defect")
        assert "--traceback" in done.stderr


def test_sigint_ends_a_command_with_130():
    code = "import os, signal, time, qkov.model_loading, qkov.cli\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
    code += "def load(*a, **o):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(30)\n"
    code += "qkov.model_loading.load_model = load\nqkov.cli.main()"
    done = program(["-c", code, "inspect", "m"])
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_output_that_nobody_reads_is_quiet():
    """The whole of the output is more than a pipe holds."""
    code = "import qkov.store_repair, qkov.cli\nqkov.store_repair.store_info = lambda path: 'x' * 10**6\n"
    code += "qkov.cli.main()"
    # Unbuffered, Python itself drops what a broken write left over, without an error.
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        [sys.executable, "-c", code, "store", "info", "s"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=buffered,
    ) as process:
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == console.READER_GONE


@pytest.mark.parametrize("arguments", [["--help"], *([*name.split(), "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_describes_every_option_and_shows_an_example(call, arguments):
    code, out, err = call("", *arguments)
    assert (code, err) == (0, "")
    if arguments == ["--help"]:
        assert "Exit status:" in out
        statuses = {one.exit_status for one in vars(errors).values() if hasattr(one, "exit_status")}
        assert {int(line) for line in re.findall(r"^ {4}(\d+) ", out, flags=re.MULTILINE)} == statuses | {0}
        return
    command = " ".join(arguments[:-1])
    assert re.search(rf"^  Example:\n    qkov {command} ", out, flags=re.MULTILINE), out
    group = typer.main.get_command(cli.app)
    for name in arguments[:-1]:
        group = group.commands[name]
    assert all(one.help for one in group.params), [one.name for one in group.params if not one.help]


def test_help_of_every_command_imports_nothing_heavy():
    code = "import sys, qkov.cli\nfor name in sys.argv[1:]:\n"
    code += "    try:\n        qkov.cli.main('qkov', [*name.split(), '--help'])\n    except SystemExit:\n        pass\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = program(["-c", code, *COMMANDS])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_takes_less_than_half_a_second(arguments):
    """Of the processor, so that other programs do not matter; the best of three."""
    assert min(processor_seconds(["-m", "qkov", *arguments]) for _ in range(3)) < HELP_SECONDS


def test_time_of_a_heavy_import_would_be_seen():
    assert processor_seconds(["-c", "import torch"]) > HELP_SECONDS


def processor_seconds(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = program(arguments)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_version(call):
    import qkov

    assert call("", "--version") == (0, f"qkov {qkov.__version__}\n", "")


def program(arguments):
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert time.perf_counter() - started < 120
    return done
