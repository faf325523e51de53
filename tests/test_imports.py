"""Imports go down only, and `import qkov` is light.

Read from the source, so that an import inside a function counts too. What stands under ``if TYPE_CHECKING:`` is imported by
nobody who runs the code: a function of a low level may name the type of what it is given by a higher one.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Packages of the repository, lowest first; book/ and tests/ are both at the top and ignore each other.
PACKAGES = {"qkov": 0, "validation": 1, "reports": 2, "tests": 3, "book": 3}

# Modules of qkov by level. A module may import those of lower levels and those before it on its own line.
LEVELS = (
    (
        "option_types",
        "escaping",
        "errors",
        "canonical",
        "links",
        "agreement",
        "tiers",
        "durable",
        "journal",
        "store_lock",
        "interruption",
        "lazy_mapping",
        "strongest",
        "hub",
        "memory",
        "reproducibility",
        "geometry",
        "formula",
        "pattern_scores",
        "full_fisher",
        "kfac",
        "fisher",
        "statistics",
    ),
    (
        "linear",
        "packings",
        "general_rule",
        "latent_attention",
        "known_attention",
        "refused_attention",
        "kinds",
        "locate",
        "losses",
        "samples",
        "reference",
    ),
    ("layout", "linear_weights", "parts", "step", "resources", "store_identity"),
    (
        "non_finite",
        "strict",
        "position_tables",
        "sample_rows",
        "module_capture",
        "returned_losses",
        "gradients",
        "pass_memory",
        "shards",
        "store_contents",
        "store_staging",
        "store",
        "store_repair",
        "store_merging",
        "passes",
        "score_options",
        "sides",
        "tiles",
        "tile_halves",
        "denominators",
        "factor_tiles",
        "scoring",
        "curvature",
        "score_memory",
        "slice_scorer",
        "attention_patterns",
    ),
    (
        "keeping",
        "collection_budget",
        "rounds",
        "shared_keeping",
        "handed_out",
        "collector",
        "meaning",
        "result_file",
        "labels",
        "slice_labels",
        "result_words",
        "score_files",
        "score_frame",
        "summary_frame",
        "diagonal",
        "tables",
        "summary_tables",
        "plots",
        "pair_summary",
        "head_types",
        "head_scoring",
        "heatmap",
        "score_attributes",
        "score_warnings",
        "head_statistics",
        "prediction_result",
    ),
    ("interference", "distributed", "inference", "top_pairs", "natural_gradient", "prediction", "pair_prediction"),
    (
        "natural_gram",
        "cosine_summary",
        "conflict_advice",
        "conflict_clusters",
        "conflict_plots",
        "sample_conflicts",
        "conflicts",
    ),
    ("importance", "head_tables", "pruning", "overlap", "merging"),
    ("checks",),
    ("operations", "stored_sizes", "pace", "peaks", "planning"),
    ("run_yaml", "run_config", "task_files", "run_folder", "report"),
    ("result_agreement", "head_moves", "run_differences", "comparison", "run_tests"),
    (
        "inspection",
        "model_loading",
        "drawn_batches",
        "checkout",
        "task_tokens",
        "checked_batches",
        "run_inputs",
        "run_stages",
        "run_summary",
        "running",
        "commands",
        "cli",
        "__main__",
    ),
)
POSITION = {name: position for position, name in enumerate(name for level in LEVELS for name in level)}
HEAVY = ("torch", "transformers", "xarray", "matplotlib", "pandas", "scipy", "statsmodels")


def sources(package):
    """Every Python file of a package of the repository."""
    return sorted(path for path in (ROOT / package).rglob("*.py") if "_build" not in path.parts)


def imported_modules(source, package):
    """Dotted names that a module imports; `package` is the dotted package that the module lies in.

    `from X import y` yields both `X` and `X.y`, as y may be a module.

    Example:
        >>> sorted(imported_modules("from . import formula; import numpy.linalg", "qkov"))
        ['numpy.linalg', 'qkov', 'qkov.formula']
        >>> sorted(imported_modules("def f():\\n    from ..fisher import welford", "qkov.checks"))
        ['qkov.fisher', 'qkov.fisher.welford']
        >>> imported_modules("if TYPE_CHECKING:\\n    import torch", "qkov")
        set()
    """
    found = set()
    for node in executed(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def executed(node):
    """Nodes of a tree but for the bodies of ``if TYPE_CHECKING:``."""
    yield node
    skipped = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    for child in node.orelse if skipped else ast.iter_child_nodes(node):
        yield from executed(child)


def module_of(path):
    """Name of a file's module directly under its package: qkov/checks/laws.py belongs to 'checks'."""
    relative = path.relative_to(ROOT)
    return relative.parts[1].removesuffix(".py")


def upward_imports(module, names):
    """Names among `names` that a module of qkov may not import: its own level or higher, or not a module at all."""
    wrong = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "qkov" or len(parts) < 2 or parts[1] == module:
            continue
        if POSITION.get(parts[1], len(POSITION)) >= POSITION[module]:
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_lower_packages(package):
    files = sources(package)
    for path in files:
        names = imported_modules(path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parts[:-1]))
        others = {name.split(".")[0] for name in names} & PACKAGES.keys() - {package}
        upward = {other for other in others if PACKAGES[other] >= PACKAGES[package]}
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"
    assert files or package == "book", f"no source file found in {package}/"


@pytest.mark.parametrize("path", sources("qkov"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_of_qkov_import_only_lower_modules(path):
    module = module_of(path)
    if module == "__init__":
        return  # it names every public module, lazily; the test below shows that it imports none
    assert module in POSITION, f"{path.relative_to(ROOT)} has no level; give it one in LEVELS"
    names = imported_modules(path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parts[:-1]))
    wrong = upward_imports(module, names)
    assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which is not below it"


@pytest.mark.parametrize(
    ("module", "source", "package"),
    [
        ("formula", "from . import interference", "qkov"),
        ("formula", "from .collector import FisherCollector", "qkov"),
        ("formula", "def late():\n    import qkov.heatmap", "qkov"),
        ("checks", "from .. import cli", "qkov.checks"),
        ("geometry", "from . import layout", "qkov"),
        ("interference", "from qkov import check_model", "qkov"),
        ("formula", "if TYPE_CHECKING:\n    import torch\nelse:\n    from . import heatmap", "qkov"),
    ],
)
def test_upward_import_is_found(module, source, package):
    assert upward_imports(module, imported_modules(source, package))


def test_downward_import_is_allowed():
    names = imported_modules("from . import formula\nfrom .fisher import welford\nimport torch", "qkov")
    assert upward_imports("interference", names) == set()


def test_importing_qkov_loads_nothing_heavy():
    command = f"import sys, qkov; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
