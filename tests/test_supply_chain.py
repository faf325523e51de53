"""Nothing here executes what it reads: forbidden calls are found in the source of every module, test, notebook and page.

The source is read, never run. An exception is a file and a rule, with the reason; one that no longer matches fails.
"""

import ast
import re
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parent.parent

PICKLES = {
    "pickle",
    "cPickle",
    "_pickle",
    "pickletools",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
NETWORK = {
    "requests", "urllib", "urllib3", "http", "httpx", "httpx2", "aiohttp", "ftplib", "smtplib", "socket", "socketserver",
    "websockets", "xmlrpc", "huggingface_hub",
}  # fmt: skip
PROCESSES = {"multiprocessing", "torch.multiprocessing"}
COMMIT = re.compile(r"[0-9a-f]{40}")

# Calls that are wrong whatever they are given.
FORBIDDEN = {
    "eval": "eval",
    "exec": "eval",
    "builtins.eval": "eval",
    "builtins.exec": "eval",
    "torch.save": "pickle",
    "torch.hub.load": "remote code",
    "torch.package.PackageImporter": "pickle",
    "pandas.read_pickle": "pickle",
    "pandas.eval": "eval",
    "yaml.unsafe_load": "yaml",
    "yaml.unsafe_load_all": "yaml",
    "yaml.full_load": "yaml",
    "yaml.full_load_all": "yaml",
    "os.system": "shell",
    "os.popen": "shell",
    "subprocess.getoutput": "shell",
    "subprocess.getstatusoutput": "shell",
    "tempfile.mktemp": "mktemp",
}

MADE_HERE = "compiles code of this repository's own pages, to run what they show"
OWN_PROCESSES = (
    "pickles between a process and those it has just started, over a pipe of its own; nothing is read from a file"
)
EXCEPTIONS = {
    ("tests/test_readme.py", "eval"): MADE_HERE,
    ("tests/test_pages_code.py", "eval"): MADE_HERE,
    ("tests/test_importance_page.py", "eval"): MADE_HERE,
    ("tests/test_mutant_conftest.py", "eval"): MADE_HERE,
    ("tests/test_hub.py", "remote code"): "asks for code without a commit to show that it is refused",
    ("tests/test_diagonal.py", "pickle"): "writes a pickle to show that it is refused",
    ("validation/bad_input/results.py", "pickle"): "writes pickles to show that they are refused",
    ("validation/suite.py", "processes"): OWN_PROCESSES,
    ("reports/notebooks.py", "processes"): OWN_PROCESSES,
}


def imported_names(tree):
    """Local name -> dotted name, from all imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def dotted(node, names):
    """The dotted name that an expression spells, imports resolved; empty if it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def constant(node):
    """The value of a constant, and an object equal to nothing of interest for anything else."""
    return node.value if isinstance(node, ast.Constant) else node


def findings(source, *, package=""):
    """Sorted ``(line, rule)`` of everything forbidden in a source; ``package`` is the folder that it lies in."""
    tree = ast.parse(source)
    names = imported_names(tree)
    found = set()
    for node in ast.walk(tree):
        found |= {(node.lineno, rule) for rule in rules_of(node, names, package)}
    return sorted(found)


def rules_of(node, names, package):
    """Yield the rules that one node breaks."""
    if isinstance(node, ast.Import):
        yield from rules_of_imports([alias.name for alias in node.names], package)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from rules_of_imports([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)], package)
    elif isinstance(node, ast.Dict):
        pairs = {constant(key): value for key, value in zip(node.keys, node.values, strict=True) if key is not None}
        yield from rules_of_options(pairs)
    elif isinstance(node, ast.Subscript | ast.Assign):
        yield from rules_of_assignment(node)
    elif isinstance(node, ast.Call):
        given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        yield from rules_of_options(given)
        yield from rules_of_call(dotted(node.func, names), node, given, package)


def rules_of_imports(modules, package):
    for module in modules:
        parts = module.split(".")
        if parts[0] in PICKLES:
            yield "pickle"
        if PROCESSES & {parts[0], ".".join(parts[:2])} or parts[-1] == "ProcessPoolExecutor":
            yield "processes"
        if package == "qkov" and parts[0] in NETWORK:
            yield "network"


def rules_of_options(given):
    """Options that are wrong in whatever call, or in a dictionary that may become its keywords."""
    if "shell" in given and constant(given["shell"]) is not False:
        yield "shell"
    if "allow_pickle" in given and constant(given["allow_pickle"]) is not False:
        yield "pickle"
    if "trust_remote_code" in given and not trust_is_pinned(given["trust_remote_code"], given.get("revision")):
        yield "remote code"


def trust_is_pinned(trust, revision):
    """Off, handed on by the same name (:mod:`qkov.hub` decides), or on together with a commit that is written beside it."""
    if constant(trust) is False or spelled(trust) == "trust_remote_code":
        return True
    commit = constant(revision) if revision is not None else None
    return constant(trust) is True and isinstance(commit, str) and COMMIT.fullmatch(commit) is not None


def spelled(node):
    """The last word of a name or attribute, through ``bool(...)``."""
    if isinstance(node, ast.Call) and dotted(node.func, {}) == "bool" and len(node.args) == 1:
        node = node.args[0]
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def rules_of_assignment(node):
    """Trust that is switched on by itself: ``options["trust_remote_code"] = True``, ``trust_remote_code = True``."""
    if isinstance(node, ast.Assign) and constant(node.value) is True:
        for target in node.targets:
            key = constant(target.slice) if isinstance(target, ast.Subscript) else spelled(target)
            if key in ("trust_remote_code", "allow_pickle"):
                yield "remote code" if key == "trust_remote_code" else "pickle"


def rules_of_call(name, node, given, package):
    if name in FORBIDDEN:
        yield FORBIDDEN[name]
    if name == "concurrent.futures.ProcessPoolExecutor":
        yield "processes"
    if name.endswith((".to_pickle", ".read_pickle")):
        yield "pickle"
    if name == "torch.load" and ("weights_only" not in given or constant(given["weights_only"]) is not True):
        yield "pickle"
    if name == "numpy.load" and "allow_pickle" not in given:
        yield "pickle"
    if name in ("yaml.load", "yaml.load_all"):
        loader = given.get("Loader", node.args[1] if len(node.args) > 1 else None)
        if spelled(loader) not in ("SafeLoader", "CSafeLoader"):
            yield "yaml"
    if name in ("__import__", "importlib.import_module") and node.args:
        module = constant(node.args[0])
        yield from rules_of_imports([module] if isinstance(module, str) else [], package)


def code_of_pages():
    """``(name, source)`` of the code of every notebook, and of every block of Python on a page."""
    for path in sorted((ROOT / "book" / "notebooks").glob("*.md")):
        cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
        yield path.relative_to(ROOT).as_posix(), "\n".join(cells)
    for path in [*sorted((ROOT / "book").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        yield from ((path.relative_to(ROOT).as_posix(), block) for block in blocks)


def all_sources():
    for package in ("qkov", "validation", "reports", "tests", "book"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    yield "noxfile.py", (ROOT / "noxfile.py").read_text(encoding="utf-8")
    yield from code_of_pages()


SOURCES = list(all_sources())


def test_nothing_that_is_forbidden_is_used():
    found = {
        (name, rule): line for name, source in SOURCES for line, rule in findings(source, package=name.split("/")[0])
    }
    wrong = [f"{name}, line {line}: {rule}" for (name, rule), line in found.items() if (name, rule) not in EXCEPTIONS]
    assert not wrong, wrong
    assert not EXCEPTIONS.keys() - found.keys(), "exceptions that match nothing"
    assert all(EXCEPTIONS.values())


def test_every_kind_of_source_is_read():
    names = [name for name, _ in SOURCES]
    assert len(names) > 250
    for part in ("qkov/cli.py", "validation/faults/run.py", "reports/book.py", "tests/conftest.py", "noxfile.py",
                 "book/_ext/local_mathjax.py", "book/notebooks/first_heatmap.md", "README.md",
                 "book/importance.md"):  # fmt: skip
        assert part in names, part


COMMIT_TEXT = "0123456789" * 4
PLANTED = [
    ("import pickle", "pickle"),
    ("import cPickle as p", "pickle"),
    ("from dill import loads", "pickle"),
    ("def f():\n    import joblib.memory", "pickle"),
    ("import shelve, json", "pickle"),
    ("from marshal import load", "pickle"),
    ("__import__('pickle')", "pickle"),
    ("import importlib\nimportlib.import_module('dill')", "pickle"),
    ("import torch\ntorch.load(f)", "pickle"),
    ("import torch\ntorch.load(f, weights_only=False)", "pickle"),
    ("import torch\ntorch.load(f, weights_only=flag)", "pickle"),
    ("from torch import load as fetch\nfetch(f)", "pickle"),
    ("import torch as t\nt.save(x, f)", "pickle"),
    ("import numpy as np\nnp.load(f)", "pickle"),
    ("import numpy\nnumpy.load(f, allow_pickle=True)", "pickle"),
    ("from numpy import load\nload(f)", "pickle"),
    ("read(f, allow_pickle=flag)", "pickle"),
    ("read(f, **{'allow_pickle': True})", "pickle"),
    ("options['allow_pickle'] = True", "pickle"),
    ("table.to_pickle(f)", "pickle"),
    ("import pandas as pd\npd.read_pickle(f)", "pickle"),
    ("eval(text)", "eval"),
    ("exec(text)", "eval"),
    ("import builtins\nbuiltins.eval(text)", "eval"),
    ("from builtins import exec as run\nrun(text)", "eval"),
    ("import yaml\nyaml.load(f)", "yaml"),
    ("import yaml\nyaml.load(f, Loader=yaml.Loader)", "yaml"),
    ("import yaml\nyaml.load(f, yaml.FullLoader)", "yaml"),
    ("from yaml import unsafe_load\nunsafe_load(f)", "yaml"),
    ("import subprocess\nsubprocess.run(c, shell=True)", "shell"),
    ("run(c, shell=flag)", "shell"),
    ("import os\nos.system(c)", "shell"),
    ("from os import popen\npopen(c)", "shell"),
    ("import subprocess as s\ns.getoutput(c)", "shell"),
    ("load(n, trust_remote_code=True)", "remote code"),
    ("load(n, trust_remote_code=flag)", "remote code"),
    ("load(n, trust_remote_code=True, revision='main')", "remote code"),
    ("load(n, trust_remote_code=True, revision=revision)", "remote code"),
    (f"load(n, trust_remote_code=True, revision={COMMIT_TEXT[:39]!r})", "remote code"),
    ("options = {'trust_remote_code': True}", "remote code"),
    ("options['trust_remote_code'] = True", "remote code"),
    ("trust_remote_code = True", "remote code"),
    ("import torch\ntorch.hub.load('a/b', 'c')", "remote code"),
    ("import tempfile\ntempfile.mktemp()", "mktemp"),
    ("from tempfile import mktemp as m\nm()", "mktemp"),
    ("import multiprocessing", "processes"),
    ("from concurrent.futures import ProcessPoolExecutor", "processes"),
    ("import torch.multiprocessing as mp", "processes"),
    ("from multiprocessing import pool", "processes"),
    ("from torch import multiprocessing", "processes"),
    ("import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor(2)", "processes"),
    ("import requests", "network"),
    ("from urllib.request import urlopen", "network"),
    ("def f():\n    import http.client", "network"),
    ("import socket", "network"),
]


@pytest.mark.parametrize(("source", "rule"), PLANTED, ids=[source.replace("\n", "; ") for source, _ in PLANTED])
def test_what_is_planted_is_found(source, rule):
    assert rule in {rule for _, rule in findings(source, package="qkov")}


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import yaml\nyaml.load(f, Loader=yaml.SafeLoader); yaml.safe_load(f)",
        "import subprocess\nsubprocess.run([a], shell=False)",
        "load(n, trust_remote_code=False)",
        f"load(n, trust_remote_code=True, revision={COMMIT_TEXT!r})",
        "load(n, trust_remote_code=trust_remote_code)",
        "from concurrent.futures import ThreadPoolExecutor",
        "from safetensors.numpy import load\nload(b)",
        "from . import pickle_free, requests",
    ],
)
def test_what_is_allowed_is_not_found(source):
    assert findings(source, package="qkov") == []


def test_network_modules_are_forbidden_in_the_package_only():
    assert findings("import socket", package="validation") == []
