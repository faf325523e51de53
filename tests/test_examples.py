"""Every file in examples/ runs as a reader would: from an empty folder, without the repository, warnings as errors.

A new example is found by its place and needs no entry here. `python -m tests.test_examples` writes the table of
examples/README.md with the seconds that each one took.
"""

import ast
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
SCRIPTS = sorted(EXAMPLES.glob("*.sh"))
LONGEST = 840  # seconds, of a machine that does much else; the script of the command line starts Python a dozen times
ALLOWED = {"qkov", "torch", "transformers", "tokenizers", "numpy"}
OFFLINE = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "MPLBACKEND": "agg",
}


def run(path, folder):
    """Run one example in an empty folder; qkov is found where this test found it, the rest of the repository is not."""
    library = folder / "library"
    library.mkdir(parents=True)
    (library / "qkov").symlink_to(ROOT / "qkov")
    empty = folder / "empty"
    empty.mkdir()
    program = ["bash"] if path.suffix == ".sh" else [sys.executable, "-W", "error"]
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(library), "PYTHON": sys.executable, "TMPDIR": str(folder)}
    return subprocess.run(
        [*program, str(path)], cwd=empty, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )


def require_good(found):
    """Refuse a program that has failed, has shown a traceback, or has printed nothing."""
    assert (found.returncode, "Traceback" in found.stderr) == (0, False), found.stdout + found.stderr
    assert found.stdout.strip()


@pytest.mark.timeout(LONGEST + 60)
@pytest.mark.parametrize("path", [*PROGRAMS, *SCRIPTS], ids=lambda path: path.name)
def test_example_runs(path, tmp_path):
    if path.suffix == ".sh" and shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    require_good(run(path, tmp_path))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_example_can_be_read_alone(path):
    """It is short, says what it asks and how it is run, checks something, and needs nothing of the repository."""
    text = path.read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, flags=re.MULTILINE))
    assert imported <= ALLOWED | set(sys.stdlib_module_names)
    assert len(text.splitlines()) <= 110
    assert f"{path.name}" in ast.get_docstring(ast.parse(text))
    assert path.name == "distributed.py" or ("assert" in text and 'if __name__ == "__main__":' in text)


@pytest.mark.parametrize("path", [*PROGRAMS, *SCRIPTS], ids=lambda path: path.name)
def test_example_is_listed(path):
    assert f"[{path.name}]({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "assert False",
        "import warnings; warnings.warn('old')",
        "import validation",
        "pass",
        "import sys; print('so far'); print('Traceback', file=sys.stderr)",
    ],
)
def test_a_wrong_program_is_refused(line, tmp_path):
    (tmp_path / "wrong.py").write_text(line)
    with pytest.raises(AssertionError):
        require_good(run(tmp_path / "wrong.py", tmp_path))


def measured_table(folder):
    """Return the rows of the table: file, question, seconds."""
    rows = ["| file | question | seconds |", "|:--|:--|--:|"]
    for path in [*PROGRAMS, *SCRIPTS]:
        before = processor_seconds()
        found = run(path, folder / path.name)
        assert found.returncode == 0, found.stderr
        rows.append(f"| [{path.name}]({path.name}) | {question_of(path)} | {processor_seconds() - before:.0f} |")
    return "\n".join(rows)


def processor_seconds():
    """Return the seconds that ended child processes took, which does not depend on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def question_of(path):
    """Return the first paragraph of an example's docstring, or the first comment of a script."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sh":
        return text.splitlines()[1].removeprefix("# ")
    return " ".join(ast.get_docstring(ast.parse(text)).split("\n\n")[0].split())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        table = measured_table(Path(temporary))
    page = EXAMPLES / "README.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r"\| file .*\n(\|.*\n)*", lambda found: table + "\n", text), encoding="utf-8")
    print(table)
