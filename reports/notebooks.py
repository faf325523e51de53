"""Execute notebooks in fresh processes so that two executions can be compared bit for bit.

Sources are MyST text, read by jupytext. A plain execution differs every time in ways that say nothing about the
results: random cell ids, timestamps, progress bars, the interleaving of output chunks. Those are fixed here. Everything
else that can differ (a random number, an object address, a warning on stderr) is a defect of the notebook and is
reported, never smoothed over.
"""

import concurrent.futures
import difflib
import hashlib
import multiprocessing
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent

# What a kernel sees, whatever the caller's shell holds. One thread: sums over large arrays depend on the number of
# threads, and two executions run side by side.
ENVIRONMENT = {
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    # tqdm, which transformers imports, warns in a kernel that there are no widgets for the bars that are switched off.
    "PYTHONWARNINGS": "ignore:IProgress not found",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "SOURCE_DATE_EPOCH": "1767225600",
}

# White faces: a transparent figure is unreadable in the dark mode of the pages. The salt makes ids in SVG files repeat.
FIGURES = """\
svg.hashsalt: qkov
figure.facecolor: white
savefig.facecolor: white
"""
KERNEL_CONFIG = """\
c.InlineBackend.figure_formats = {"svg"}
c.HistoryManager.enabled = False
"""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
READABLE = ("text/plain", "text/html", "text/markdown", "text/latex")


@dataclass(frozen=True)
class Execution:
    """One execution of a notebook: its canonical text, what was wrong with it, and how long it took."""

    name: str
    text: str
    problems: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Two executions of one notebook side by side."""

    name: str
    text: str
    problems: tuple[str, ...]
    difference: str
    num_cells: int
    seconds: float

    @property
    def identical(self):
        """Whether the two executions agree in every byte."""
        return not self.difference

    @property
    def passed(self):
        """Whether both executions were clean, agree, and executed at least one cell."""
        return self.identical and not self.problems and self.num_cells > 0

    @property
    def sha256(self):
        """Digest of the executed notebook."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def execute(source, *, timeout=600):
    """Execute one notebook in a fresh kernel and an empty working directory.

    Args:
        source: Path of a MyST notebook.
        timeout: Seconds that one cell may take.

    Returns:
        An :class:`Execution`. A cell that raises is a problem of the execution, not an exception here.
    """
    source = Path(source)
    notebook = jupytext.read(source)
    name_cells(notebook)
    problems = []
    started = time.perf_counter()
    # A short path: the sockets of the ipc transport lie here, and a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        environment = prepare_kernel(Path(folder))
        work = Path(folder, "work")
        work.mkdir()
        # The default transport, TCP, warns on stderr. Given as settings, not as a manager made here, because nbclient
        # shuts down only the kernels of managers that it made itself.
        transport = {"transport": "ipc", "connection_file": str(Path(folder, "kernel.json"))}
        client = NotebookClient(
            notebook,
            config=Config({"KernelManager": transport}),
            timeout=timeout,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(work)}},
        )
        try:
            client.execute(env=environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            problems.append(COLOUR.sub("", f"{type(error).__name__}: {str(error).strip()}"))
    seconds = time.perf_counter() - started
    notebook.metadata.pop("language_info", None)  # it names the patch release of Python, and nothing reads it
    problems += find_problems(notebook)
    return Execution(source.stem, nbformat.writes(notebook, version=4), tuple(problems), seconds)


def prepare_kernel(folder):
    """Write the settings of a kernel into `folder` and return its environment."""
    profile = folder / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL_CONFIG)
    (folder / "matplotlibrc").write_text(FIGURES)
    environment = {**os.environ, **ENVIRONMENT}
    environment.pop("MPLBACKEND", None)  # the kernel chooses the inline backend only when nothing else is asked for
    environment["IPYTHONDIR"] = str(folder / "ipython")
    environment["MATPLOTLIBRC"] = str(folder / "matplotlibrc")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return environment


def name_cells(notebook):
    """Give each cell an id made of its position and its source; nbformat would draw a random one."""
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"{index:03d}-{hashlib.sha256(cell.source.encode()).hexdigest()[:12]}"


def find_problems(notebook):
    """List outputs that cannot be trusted to repeat: anything on stderr, and object addresses."""
    problems = []
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                problems.append(f"cell {index} writes to stderr: {output.text.strip()[:300]}")
                continue
            data = output.get("data", {})
            texts = [output.get("text", ""), *(str(data[kind]) for kind in READABLE if kind in data)]
            found = next((match for match in map(ADDRESS.search, texts) if match), None)
            if found:
                problems.append(f"cell {index} shows an object address: {found.group()}")
    return problems


def compare(first, second):
    """Compare two executions of a notebook bit for bit.

    Returns:
        A :class:`Comparison` whose `difference` is empty or shows the first cell that differs.
    """
    notebook = nbformat.reads(first.text, as_version=4)
    return Comparison(
        name=first.name,
        text=first.text,
        problems=tuple(dict.fromkeys(first.problems + second.problems)),
        difference="" if first.text == second.text else describe_difference(first, second),
        num_cells=sum(cell.cell_type == "code" and cell.execution_count is not None for cell in notebook.cells),
        seconds=first.seconds + second.seconds,
    )


def describe_difference(first, second, *, width=160, max_lines=40):
    """Show the first cell in which two executions differ, as a unified diff with long lines cut."""
    cells = [nbformat.reads(execution.text, as_version=4).cells for execution in (first, second)]
    for index, (one, other) in enumerate(zip(*cells, strict=False)):
        if one != other:
            title, versions = f"cell {index}", (one, other)
            break
    else:
        title, versions = "outside the cells", (first.text, second.text)
    lines = [readable_lines(version) for version in versions]
    diff = list(difflib.unified_diff(*lines, "first execution", "second execution", n=1, lineterm=""))
    source = [f"    {line}" for line in versions[0]["source"].splitlines()] if title.startswith("cell") else []
    shown = [line if len(line) <= width else f"{line[:width]}... ({len(line)} characters)" for line in diff[:max_lines]]
    return "\n".join([f"first difference: {title}", *source, *shown])


def readable_lines(cell):
    """Outputs of a cell as lines, without the quoting of JSON."""
    if isinstance(cell, str):
        return cell.splitlines()
    lines = []
    for output in cell.get("outputs", []):
        lines += [f"[{output.output_type}]", *str(output.get("text", "")).splitlines()]
        for kind, value in sorted(output.get("data", {}).items()):
            lines += [f"[{kind}]", *str(value).splitlines()]
    return lines or cell.source.splitlines()


def execute_twice(sources, *, jobs=2, timeout=600):
    """Execute every notebook twice, each time in a kernel (a process) of its own, and compare.

    Args:
        sources: Paths of MyST notebooks.
        jobs: Executions that run at the same time, one thread each.
        timeout: Seconds that one cell may take.

    Yields:
        One :class:`Comparison` for each source, in order, as soon as it is known.
    """
    # matplotlib says on stderr that it builds its font cache; built here, no notebook has to.
    import matplotlib.font_manager  # noqa: F401

    # "spawn": a forked child would inherit the threads and locks of whatever runs this.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        pairs = [[pool.submit(execute, source, timeout=timeout) for _ in range(2)] for source in sources]
        for pair in pairs:
            yield compare(*(future.result() for future in pair))
