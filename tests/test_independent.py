"""The methods appendix suffices: a program written from it, without qkov, gives the published values, and can fail to."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qkov import formula
from validation import independent_evidence, reference_models
from validation.independent import metric, misreadings, models, slices, values

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "validation" / "independent").glob("*.py"))
TEXT = ROOT / "reports" / "appendix" / "text"
PUBLISHED = json.loads((ROOT / "validation" / "reference" / "values.json").read_text(encoding="utf-8"))["models"]
DECIDED = json.loads((ROOT / "validation" / "reference" / "decisions.json").read_text(encoding="utf-8"))
ALLOWED = {"numpy", "torch", "transformers", "safetensors", "scipy"}
TRACE = """
import sys
sys.modules['qkov'] = None
import validation.independent.__main__
print(*sorted(name for name, module in sys.modules.items() if name.split('.')[0] in ('qkov', 'validation') and module))
"""


def foreign_imports(source):
    """What a module imports beyond its own folder, the standard library and the libraries that the text names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.add("." * node.level + (node.module or ""))
    return {name for name in found if name.split(".")[0] not in ALLOWED | sys.stdlib_module_names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_program_imports_nothing_of_the_package(path):
    assert foreign_imports(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "line", ["import qkov", "from qkov import formula", "from ..tasks import pad_rows", "import pandas"]
)
def test_foreign_import_is_found(line):
    assert foreign_imports(f"def late():\n    {line}")


def test_nothing_of_the_package_is_loaded_with_it():
    done = subprocess.run([sys.executable, "-c", TRACE], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "validation.independent.values" in loaded
    assert all(name == "validation" or name.startswith("validation.independent") for name in loaded)


def test_package_cannot_be_imported_where_the_program_runs():
    planted = independent_evidence.WITHOUT_QKOV.replace("runpy.run_module", "__import__('qkov'); runpy.run_module")
    done = subprocess.run([sys.executable, "-c", planted], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "import of qkov halted" in done.stderr


def equations(text):
    """Names of the equations in a text of the appendix."""
    return set(re.findall(r"\\tag\{(\w+)\}", text))


def test_every_equation_of_the_text_is_in_the_program():
    tagged = equations("\n".join(path.read_text(encoding="utf-8") for path in TEXT.glob("*.tex")))
    written = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    named = {f"{letter}{number}" for letter, number in re.findall(r"\b([MLSPR])(\d+)\b", written)}
    for letter, first, last in re.findall(r"\b([MLSPR])(\d+) (?:to|and) [MLSPR]?(\d+)\b", written):
        named |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    assert tagged - named == {"W1"}, "W1 is a consequence, measured as a law"
    assert named <= tagged
    assert {equation for *_, equation in misreadings.MISREADINGS.values()} <= tagged


@pytest.fixture(scope="module")
def collected():
    return {name: values.collect(name) for name in values.MODELS}


@pytest.fixture(scope="module")
def gradients():
    return values.load(ROOT / "validation" / "reference" / "gradients.safetensors")


@pytest.fixture(scope="module")
def right(collected, gradients):
    """Everything that a misreading is judged by, read rightly."""
    found = {model: values.published(*collected[model]) for model in values.MODELS}
    return found | {"equation": "M3", "tests": values.tests(gradients), "noise": values.noise()}


def test_reference_models_and_samples_follow_from_the_text():
    for name in values.MODELS:
        ours, theirs = models.build(name).state_dict(), reference_models.build(name).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key].to(ours[key].dtype)) for key in ours)
    for task in "abr":
        batch = reference_models.batch(task)
        rows = [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        assert models.texts(task) == rows


@pytest.mark.parametrize("name", values.MODELS)
def test_published_values_follow_from_the_text(right, name):
    measured = independent_evidence.compare_scores(right[name], PUBLISHED[name]["exact"]).measurement(1e-12)
    assert measured.passed, measured
    assert measured.compared > 250
    assert (
        independent_evidence.compare_top(right[name]["top"], PUBLISHED[name]["single"]["top"]).measurement(1e-5).passed
    )


def test_published_tests_follow_from_the_text(right):
    counts, floats = independent_evidence.compare_tests(right["tests"], DECIDED)
    assert counts.measurement(0.0).passed
    assert floats.measurement(1e-12).passed
    assert independent_evidence.compare_unequal(right["tests"]["unequal"]).measurement(1e-12).passed
    assert independent_evidence.compare_intervals(right["tests"]).measurement(1e-12).passed


def test_rounding_noise_scores_exactly_nothing(right):
    measured = independent_evidence.compare_noise(right["noise"]).measurement(1e-9)
    assert measured.passed, measured


@pytest.mark.parametrize("name", misreadings.MISREADINGS)
def test_misreading_is_noticed(collected, gradients, right, name):
    module, attribute, _, equation = misreadings.MISREADINGS[name]
    correct = getattr(module, attribute)
    with misreadings.planted(name):
        wrong = right | {"equation": equation} | values.misread(module, collected, gradients)
    assert getattr(module, attribute) is correct
    row = independent_evidence.judge(name, wrong, PUBLISHED, DECIDED)
    assert row["status"] == "noticed", row


def test_right_reading_is_not_called_noticed(right):
    assert independent_evidence.judge("none", right, PUBLISHED, DECIDED)["status"] == "missed"


def test_both_forms_of_the_full_matrix_agree():
    drawn = np.random.default_rng(0)
    h_a, h_b = drawn.normal(size=(3, 7)), drawn.normal(size=(4, 7))
    for pool in ("A", "pooled"):
        omega = metric.matrix_weights(3, 4, pool)
        np.testing.assert_allclose(
            metric.full_scores_by_samples(h_a, h_b, omega), metric.full_scores(h_a, h_b, omega), rtol=1e-12
        )


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_rounding_noise_is_told_as_the_text_says(share):
    mean = share * (16 * 2.0**-52) ** 2
    assert metric.is_noise(mean, 1.0) == formula.is_noise(mean, 1.0, torch.float64) == (share < 1)


def test_heads_lie_where_the_text_says():
    model = models.build("deterministic-llama")
    (first, _) = slices.of_model(model)
    assert [len(first[block]) for block in slices.BLOCKS] == [4, 2, 2, 4]
    assert first["O"][3].index == (slice(None), slice(12, 16))
    assert [slices.kv_head(head, 4, 2) for head in range(4)] == [0, 0, 1, 1]


def test_program_that_ends_badly_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended with status 1"):
        independent_evidence.run_independent(tmp_path / "missing.safetensors")
