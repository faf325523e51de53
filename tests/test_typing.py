"""What a type checker tells a user: the types that calls return, and calls that are refused before anything runs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qkov

ROOT = Path(__file__).resolve().parent.parent

# Each line that ends in a comment is one case: `# is TYPE` what reveal_type must say, `# refused CODE` an error of mypy.
PROGRAM = """
from pathlib import Path
from typing import Any

import torch
import qkov
from qkov import fisher, formula, layout
from qkov.statistics import test_source

model: torch.nn.Module
batch: dict[str, torch.Tensor]
grads: torch.Tensor

reveal_type(qkov.load_heatmap("x"))  # is qkov.heatmap.Heatmap
reveal_type(qkov.load_heatmap(Path("x"), scores_path="y").mean_map("Q"))  # is numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]
reveal_type(qkov.load_heatmap("x").save("y"))  # is pathlib.Path
reveal_type(qkov.load_heatmap("x").task_a)  # is str
reveal_type(qkov.load_heatmap("x").block_average("Q"))  # is float
config = qkov.QKOVConfig.from_model(model)
reveal_type(config)  # is qkov.layout.QKOVConfig
with qkov.FisherCollector(store=Path("x"), weights=("attention", "mlp"), memory_budget="8GB") as collector:
    reveal_type(collector)  # is qkov.collector.FisherCollector
    collector.collect_fisher(model, batch, "math", sample_ids=["a", "b"])
    collector.collect_fisher(model, iter([batch]), "math", loss_fn=lambda model, batch: model(**batch).loss)
reveal_type(collector.sample_ids("math"))  # is tuple[int | str, ...]
reveal_type(collector.sealed)  # is bool | None
reveal_type(collector.contribution_cache["math"]["math_0"]["weight"])  # is torch._tensor.Tensor
reveal_type(collector.get_sample_gradients("math", 0)["weight"])  # is torch._tensor.Tensor
reveal_type(qkov.FisherCollector.open("x").tasks)  # is tuple[str, ...]
reveal_type(qkov.collect_fisher_diagonal(model, batch, "math"))  # is qkov.diagonal.FisherDiagonal
reveal_type(qkov.check_model(model, batch, batch))  # is list[qkov.checks.registry.CheckResult]
reveal_type(qkov.predict_change(collector, "math", "code", step_size=0.1))  # is qkov.prediction_result.Prediction
reveal_type(qkov.detect_conflicts(collector, "math", "code"))  # is qkov.sample_conflicts.SampleConflicts
reveal_type(qkov.QKOVStatistics().test_heatmap(collector, "math", "code", seed=0))  # is qkov.head_statistics.HeadStatistics
reveal_type(qkov.score_head_types(model).to_dataframe)  # is def () -> Any
reveal_type(formula.contribution(grads))  # is torch._tensor.Tensor
reveal_type(fisher.Welford.of(grads).variance)  # is torch._tensor.Tensor
reveal_type(fisher.pool_fisher(1.0, 2.0, "A"))  # is float
reveal_type(qkov.__version__)  # is str

qkov.QKOVInterferenceMetric(collector.config, collector)
metric = qkov.QKOVInterferenceMetric(config, collector, variant="signed", fisher_pool="pooled")
reveal_type(metric.compute_heatmap("math", "code", layers=[0]))  # is qkov.heatmap.Heatmap
reveal_type(metric.compute_summary("math", "code", top_k=3))  # is qkov.pair_summary.PairSummary

qkov.QKOVInterferenceMetric(config, collector, fisher_pool="C")  # refused arg-type
metric.compute_heatmap("math", "code", max_samples_per_task="all")  # refused arg-type
qkov.load_heatmap(3)  # refused arg-type
qkov.load_heatmaps("x")  # refused attr-defined
collector.collect_fisher(model, batch, "math", sample_ids=3)  # refused arg-type
collector.collect_fisher(model, batch, "math", non_finite="ignore")  # refused arg-type
collector.collect_fisher(model, batch)  # refused call-arg
collector.get_group_fisher("math", mode="mean")  # refused arg-type
qkov.FisherCollector(contribution_normalisation="token")  # refused arg-type
qkov.FisherCollector(store_dtype="float16")  # refused arg-type
qkov.predict_change(collector, "math", "code", step_size=0.1, optimiser="adamw")  # refused arg-type
qkov.QKOVStatistics(alternative="bigger")  # refused arg-type
qkov.merge_weights({"a": {}}, fisher_scale="max")  # refused arg-type
qkov.get_fisher_pruning_masks("x", share=0.5)  # refused arg-type
"""

CASES = [
    (number, *re.fullmatch(r"(.*?)  # (is|refused) (.*)", line).groups())
    for number, line in enumerate(PROGRAM.splitlines(), 1)
    if re.search(r"  # (is|refused) ", line)
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What mypy says of each line of the program, from one run of it."""
    pytest.importorskip("mypy", reason="mypy is not installed; `nox -s lint` needs it")
    folder = tmp_path_factory.mktemp("typing")
    (folder / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = true\nfollow_imports = silent\nshow_error_codes = true\npretty = false\n"
    )
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "program.py"]
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=250, check=False
    )
    lines = re.findall(r"^program\.py:(\d+): (\w+): (.*)$", done.stdout, re.MULTILINE)
    assert done.returncode == 1, done.stdout + done.stderr  # the program has wrong calls
    found = {}
    for number, kind, text in lines:
        found.setdefault(int(number), []).append((kind, text))
    return found


def _environment():
    """The environment of this process, with the checkout as a place where mypy finds sources."""
    return {**os.environ, "MYPYPATH": str(ROOT)}


@pytest.mark.parametrize(("number", "code", "kind", "expected"), CASES, ids=[case[1][:60] for case in CASES])
def test_type_checker_says(told, number, code, kind, expected):
    said = told.get(number, [])
    if kind == "is":
        assert said == [("note", f'Revealed type is "{expected}"')], code
    else:
        assert [text.rpartition("  ")[2] for severity, text in said if severity == "error"] == [f"[{expected}]"], code


def test_all_other_lines_of_the_program_are_accepted(told):
    assert set(told) == {number for number, *_ in CASES}


def names_for_type_checkers():
    """``{name: module}`` of what ``qkov/__init__.py`` imports under ``if TYPE_CHECKING:``."""
    tree = ast.parse((ROOT / "qkov" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        alias.asname: statement.module
        for statement in block.body
        for alias in statement.names
        if alias.asname == alias.name  # "as" itself: handed on
    }


def test_type_checkers_see_the_names_that_are_imported_when_used():
    assert names_for_type_checkers() == {**qkov._HOME, **dict.fromkeys(qkov._MODULES)}


def test_package_says_that_it_is_typed():
    assert (ROOT / "qkov" / "py.typed").read_bytes() == b""
