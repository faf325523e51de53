"""D3: committed values, compared where data and weights are the same; changed values fail, and dirty checkouts are refused."""

import copy
import json
import subprocess

import numpy as np
import pytest
import torch

from qkov import formula
from validation import reference_models
from validation import reference_values as values

LLAMA = "deterministic-llama"


@pytest.fixture(scope="module")
def committed():
    return json.loads(values.PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def measured():
    return values.measure(*values.build(LLAMA))


def statuses(rows):
    return {(row["check"], row["model"]): row["status"] for row in rows}


@pytest.mark.parametrize("name", reference_models.NAMES)
def test_models_from_integers_have_the_committed_values(name, committed):
    rows = values.compare_model(name, committed["models"][name])
    found = {(row["check"], row["model"]): row for row in rows}
    assert {row["status"] for row in rows} == {"passed"}, rows
    assert found["reference_float64", name]["bound"] == 1e-9
    assert found["reference_D3", name]["compared"] > 300
    assert found["reference_D3", f"{name}, beside float64"]["error"] < 1e-5


def test_weights_do_not_depend_on_the_random_state():
    torch.manual_seed(1)
    first = reference_models.build(LLAMA)
    torch.manual_seed(2)
    assert values.key_of(LLAMA, first) == values.key_of(LLAMA, reference_models.build(LLAMA))


def planted(committed, change):
    """The committed values of one model with one of them changed by a relative 2e-3."""
    found = copy.deepcopy(committed["models"][LLAMA])
    single = found["single"]
    if change == "average":
        single["scores"]["dot"]["K"]["mean"][1][0] += 2e-3 * single["scores"]["dot"]["K"]["largest"]
    elif change == "largest":
        single["scores"]["full"]["Q"]["largest"] *= 1.002
    elif change == "fisher":
        name = "b ema 1 V"
        single["fisher"][name][0] += 2e-3 * max(single["fisher"][name])
    elif change == "variant":
        del single["scores"]["kfac"]
    elif change == "sums":
        del single["fisher"]["a welford 0 O"]
    elif change == "top":
        single["top"]["O"][0]["sample_j"] = 99
    elif change == "score":
        single["top"]["O"][0]["score"] *= 1.002
    return found


@pytest.mark.parametrize("change", ["average", "largest", "fisher", "variant", "sums", "top", "score"])
def test_changed_values_fail(change, committed):
    name = ("reference_D3", LLAMA)
    assert statuses(values.compare_model(LLAMA, planted(committed, "nothing")))[name] == "passed"
    assert statuses(values.compare_model(LLAMA, planted(committed, change)))[name] == "failed"


def test_a_float64_value_that_moves_by_a_millionth_fails(committed):
    found = copy.deepcopy(committed["models"][LLAMA])
    found["exact"]["scores"]["signed"]["O"]["mean"][0][0] += 1e-6 * found["exact"]["scores"]["signed"]["O"]["largest"]
    rows = statuses(values.compare_model(LLAMA, found))
    assert rows["reference_float64", LLAMA] == "failed"
    assert rows["reference_D3", f"{LLAMA}, beside float64"] == "passed"


def test_a_wrong_formula_fails(committed, monkeypatch):
    kept = formula.contribution
    monkeypatch.setattr(formula, "contribution", lambda h: kept(h) * 1.01)
    assert statuses(values.compare_model(LLAMA, committed["models"][LLAMA]))["reference_D3", LLAMA] == "failed"


def test_top_pairs_may_trade_places_within_the_tolerance_only(measured):
    near, far = copy.deepcopy(measured), copy.deepcopy(measured)
    last = near["top"]["Q"][-1]
    near["top"]["Q"][-1] = last | {"sample_i": 50, "score": last["score"] * (1 + 1e-5)}
    far["top"]["Q"][-1] = last | {"sample_i": 50, "score": last["score"] * 1.5}
    assert values.compare(near, measured, 1e-3).error <= 1e-3
    assert values.compare(far, measured, 1e-3).error == np.inf
    assert values.compare(measured, far, 1e-3).error == np.inf


@pytest.mark.parametrize("part", ["data", "weights"])
def test_other_data_or_weights_are_not_run_and_fail_where_they_are_the_same_everywhere(part, committed, monkeypatch):
    found = copy.deepcopy(committed["models"][LLAMA])
    found["key"][part] = "other"
    (row,) = values.compare_model(LLAMA, found)
    assert (row["status"], row["reason"]) == ("failed", f"its {part} are not those of the committed values")
    monkeypatch.setattr(values, "build", lambda name: values.reference_models.build(LLAMA) and (
        values.reference_models.build(LLAMA), values.reference_models.batch("a"), values.reference_models.batch("b")
    ))  # fmt: skip
    (row,) = values.compare_model("trained-llama", committed["models"]["trained-llama"])
    assert row["status"] == "not run"


def test_a_model_without_committed_values_fails():
    (row,) = values.compare_model(LLAMA, None)
    assert row["status"] == "failed"
    assert "nox -s reference" in row["reason"]


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "values.json"
    path.write_text('{"format": "x"}')
    with pytest.raises(ValueError, match="has format 'x'"):
        values.measure_reference(path)


def test_differences_of_environments_are_said():
    one = {"python": "3.11", "threads": 1, "versions": {"torch": "2.13", "qkov": "0.1"}}
    two = {"python": "3.11", "threads": 2, "versions": {"torch": "2.14", "qkov": "0.2"}}
    assert values.differences(one, one) == []
    assert values.differences(one, two) == ["versions torch: 2.13 there, 2.14 here"]


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "Start")
    return tmp_path


@pytest.mark.parametrize("change", ["changed", "untracked"])
def test_a_checkout_with_changes_is_refused(change, checkout, capsys, monkeypatch):
    monkeypatch.setattr(values, "rewrite", lambda *given: pytest.fail("rewritten all the same"))
    (checkout / ("file" if change == "changed" else "other")).write_text("2")
    assert values.main([], root=checkout) == 1
    assert "the checkout has changes" in capsys.readouterr().err


def test_outside_a_repository_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(values, "rewrite", lambda *given: pytest.fail("rewritten all the same"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert values.main([], root=tmp_path) == 1
    assert "is not a git checkout" in capsys.readouterr().err


def test_a_clean_checkout_is_rewritten_with_its_commit(checkout, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(values, "rewrite", lambda *given: asked.append(given))
    assert values.main([], root=checkout) == 0
    ((commit, path),) = asked
    assert (len(commit), path) == (40, checkout / "validation" / "reference" / "values.json")
    assert commit[:12] in capsys.readouterr().out


def test_what_is_rewritten_can_be_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(values, "TRAINED", ())
    monkeypatch.setattr(values.reference_models, "NAMES", (LLAMA,))
    path = tmp_path / "values.json"
    values.rewrite("0" * 40, path)
    rows, differences = values.measure_reference(path, [LLAMA])
    assert {row["status"] for row in rows} == {"passed"}
    assert differences == []
    assert {one.name for one in tmp_path.iterdir()} == {
        "values.json", "decisions.json", "gradients.safetensors", "heatmap.safetensors", "conflicts.safetensors",
    }  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("name", reference_models.NAMES)
def test_a_gpu_gives_the_committed_values(name, committed):
    rows = statuses(values.compare_model(name, committed["models"][name]))
    assert rows["reference_D3", f"{name} on a GPU"] == "passed"
