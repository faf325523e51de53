"""Overlap: counts by loops, chance by listing every subset, sets that add up, advice that says it is one."""

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from qkov import errors, overlap
from qkov.overlap import compute_fisher_overlap, expected_jaccard, load_mask_overlap
from qkov.pruning import get_fisher_pruning_masks
from tests.diagonals import head_of, make_diagonal

TASKS = ("math", "code", "prose")


def diagonals(family="gpt2", tasks=TASKS, **options):
    return [make_diagonal(family, task=task, seed=seed, **options) for seed, task in enumerate(tasks)]


def listed(num_units, size_a, size_b):
    """Mean Jaccard index over every subset of one size, the other held: by listing them."""
    fixed = set(range(size_b))
    found = [
        Fraction(len(fixed & {*one}), len(fixed | {*one})) for one in itertools.combinations(range(num_units), size_a)
    ]
    return float(sum(found) / len(found))


@given(st.integers(1, 8), st.data())
def test_expected_jaccard_is_the_mean_over_all_subsets(num_units, data):
    size_a, size_b = data.draw(st.integers(0, num_units)), data.draw(st.integers(0, num_units))
    if size_a + size_b:
        assert expected_jaccard(num_units, size_a, size_b) == pytest.approx(
            listed(num_units, size_a, size_b), rel=1e-12
        )
        assert expected_jaccard(num_units, size_b, size_a) == pytest.approx(
            expected_jaccard(num_units, size_a, size_b), rel=1e-12
        )


@pytest.mark.parametrize(
    ("num_units", "size_a", "size_b"), [(3000, 700, 1900), (10**8, 10**7, 5 * 10**7), (10**6, 1, 10**5)]
)
def test_expected_jaccard_of_many_units(num_units, size_a, size_b):
    found = expected_jaccard(num_units, size_a, size_b)
    if num_units < 10**4:  # whole numbers without rounding
        total = sum(
            Fraction(math.comb(size_b, x) * math.comb(num_units - size_b, size_a - x) * x, size_a + size_b - x)
            for x in range(max(0, size_a + size_b - num_units), min(size_a, size_b) + 1)
        )
        assert found == pytest.approx(float(total / math.comb(num_units, size_a)), rel=1e-10)
    mean = size_a * size_b / num_units
    assert found == pytest.approx(mean / (size_a + size_b - mean), rel=1e-3)  # of the mean sizes: close for large sets


def test_sets_that_do_not_exist_have_no_expectation():
    assert math.isnan(expected_jaccard(5, 0, 0))
    with pytest.raises(errors.OptionError, match="do not exist"):
        expected_jaccard(5, 6, 1)


def by_loop(one, other):
    """Counts of all levels of unstructured masks, a parameter at a time."""
    counts = {}
    for weight in one.weights:
        a, b = (masks.masks[weight.param_name].tolist() for masks in (one, other))
        for row, column in itertools.product(range(weight.weight_shape[0]), range(weight.weight_shape[1])):
            owner = head_of(one.config, weight.param_name, row, column)
            block = owner[1] if owner else "mlp" if weight.kind == "mlp" else "other"
            for key in (("all", None), ("layer", weight.layer), ("block", block)):
                found = counts.setdefault(key, [0, 0, 0, 0, 0])
                kept = a[row][column], b[row][column]
                for place, value in enumerate((True, *kept, all(kept), any(kept))):
                    found[place] += value
    return counts


SOME = ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj", "lm_head")


@pytest.mark.parametrize(("family", "include"), [("llama", SOME), ("gpt2", "attention")])
def test_counts_are_those_of_a_loop_over_parameters(family, include):
    two = diagonals(family, tasks=TASKS[:2], include=include)
    result = compute_fisher_overlap(two, share=0.3, structure="unstructured")
    expected = by_loop(*result.masks.values())
    rows = {(row["level"], row["layer"] if row["level"] == "layer" else row["block"]): row for row in result.rows}
    assert set(rows) == set(expected)
    assert (("layer", None) in rows) == (include == SOME)
    assert ("block", "K") in rows
    for key, counts in expected.items():
        row = rows[key]
        assert [row[name] for name in ("num_units", "size_a", "size_b", "both", "either")] == counts
        assert row["jaccard"] == counts[3] / counts[4]
        assert row["expected"] == pytest.approx(expected_jaccard(*counts[:3]), rel=1e-14)
        assert row["adjusted"] == (row["jaccard"] - row["expected"]) / (1 - row["expected"])


@pytest.mark.parametrize("structure", ["head", "channel"])
def test_structured_masks_are_compared_unit_by_unit(structure):
    result = compute_fisher_overlap(diagonals("llama"), share=0.5, structure=structure)
    assert {row["level"] for row in result.rows} == {"all", "layer"}
    assert len(result.rows) == 3 * 3
    first, second = (result.masks[task].units() for task in TASKS[:2])
    for row in result.rows[1:3]:
        keys = [key for key in first if key[0] == row["layer"]]
        assert row["both"] == sum(int((first[key] & second[key]).sum()) for key in keys)
        assert row["num_units"] == sum(first[key].size for key in keys)


def test_random_masks_overlap_as_expected_by_chance():
    result = compute_fisher_overlap(
        diagonals("gpt2", tasks=map(str, range(6)), include="attention"), share=0.2, structure="unstructured"
    )
    table = result.to_dataframe()
    table = table[table["level"] == "all"]
    assert table["adjusted"].mean() == pytest.approx(0.0, abs=0.02)
    assert set(table["advice"]) == {"apart"}


@pytest.mark.parametrize("structure", ["head", "unstructured"])
def test_shared_and_own_sets_add_up(structure):
    result = compute_fisher_overlap(diagonals(), share=0.5, structure=structure)
    shared, own = result.shared(), {task: result.unique(task) for task in TASKS}
    for name, together in shared.items():
        kept = np.stack([result.masks[task].masks[name].numpy() for task in TASKS])
        assert np.array_equal(together.numpy(), kept.sum(0) == 3)
        for place, task in enumerate(TASKS):
            assert np.array_equal(own[task][name].numpy(), (kept.sum(0) == 1) & kept[place])
    with pytest.raises(errors.UnknownTaskError, match="'other'"):
        result.unique("other")


def test_equal_masks_are_one_and_disjoint_masks_are_nothing():
    one, other = diagonals(tasks=TASKS[:2])
    same = compute_fisher_overlap({"one": one, "again": dataclasses.replace(one, task="again")}, share=0.5)
    assert all((row["jaccard"], row["adjusted"], row["advice"]) == (1.0, 1.0, "shared") for row in same.rows)
    high = get_fisher_pruning_masks(one, share=0.5)
    low = dataclasses.replace(get_fisher_pruning_masks(one, share=0.5, keep="lowest"), task=other.task)
    found = compute_fisher_overlap([high, low])
    assert all((row["jaccard"], row["both"], row["advice"]) == (0.0, 0, "apart") for row in found.rows)


def test_empty_and_full_sets_have_no_adjusted_index():
    empty = compute_fisher_overlap(diagonals(tasks=TASKS[:2]), share=0)
    assert all((row["jaccard"], row["expected"], row["advice"]) == (None, None, "none") for row in empty.rows)
    assert empty.to_dataframe()["jaccard"].isna().all()
    assert "Jaccard none" in repr(empty)
    full = compute_fisher_overlap(diagonals(tasks=TASKS[:2]), share=1)
    assert all((row["jaccard"], row["expected"], row["adjusted"]) == (1.0, 1.0, None) for row in full.rows)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
@example(0.5, 0.1, 0.5)
def test_advice_follows_the_thresholds(adjusted, one, other):
    low, high = sorted((one, other))
    found = overlap._advice(adjusted, low, high)
    assert (found == "apart") == (adjusted < low)
    assert (found == "shared") == (adjusted >= max(low, high))
    assert found in overlap.ADVICE


def test_thresholds_change_the_advice_alone():
    one, other = (
        compute_fisher_overlap(diagonals(), share=0.5, merge_thresholds=limits) for limits in ((-1, -1), (1, 1))
    )
    assert {row["advice"] for row in one.rows} == {"shared"}
    assert {row["advice"] for row in other.rows} == {"apart"}
    assert [{**row, "advice": 0} for row in one.rows] == [{**row, "advice": 0} for row in other.rows]


def test_saved_overlap_comes_back_in_every_bit(tmp_path):
    result = compute_fisher_overlap(diagonals(), share=0.3, structure="unstructured")
    loaded = load_mask_overlap(result.save(tmp_path / "overlap"))
    assert loaded == result
    assert loaded.tasks == TASKS
    assert all(loaded.masks[task] == result.masks[task] for task in TASKS)
    assert loaded.to_dataframe().equals(result.to_dataframe())
    assert "rule of thumb" in repr(loaded)
    assert "rule of thumb" in loaded._repr_html_()
    masks = result.masks["math"].save(tmp_path / "masks")
    with pytest.raises(errors.ResultFileError, match="qkov-pruning-masks"):
        load_mask_overlap(masks)


def test_comparisons_without_meaning_are_refused():
    one, other, _ = diagonals()
    masks = get_fisher_pruning_masks(one, share=0.5)
    cases = [
        ([one], {"share": 0.5}, errors.EmptyTaskError, "1 tasks"),
        ([one, one], {"share": 0.5}, errors.OptionError, "twice"),
        ([masks, other], {"share": 0.5}, errors.OptionError, "make masks"),
        ([one, other], {"share": 0.5, "merge_thresholds": (0.5, 0.1)}, errors.OptionError, "low <= high"),
        ([masks, get_fisher_pruning_masks(other, share=0.5, structure="channel")], {}, errors.ShapeError, "channel"),
        ([masks, *diagonals("llama", tasks=["x"])], {}, errors.OptionError, "exactly one"),
    ]
    for sources, options, error, words in cases:
        with pytest.raises(error, match=words):
            compute_fisher_overlap(sources, **options)
    with pytest.raises(errors.ShapeError, match="other weights"):
        compute_fisher_overlap([one, *diagonals("llama", tasks=["x"])], share=0.5)


def test_a_wrong_union_is_caught(monkeypatch):
    """Sizes added without taking away what was counted twice: not what a loop counts."""
    right = overlap._indices
    monkeypatch.setattr(
        overlap, "_indices", lambda n, a, b, both: right(n, a, b, both) | {"jaccard": float(both / (a + b))}
    )
    result = compute_fisher_overlap(diagonals(tasks=TASKS[:2]), share=0.3, structure="unstructured")
    counts = by_loop(*result.masks.values())["all", None]
    assert result.rows[0]["jaccard"] < 0.9 * counts[3] / counts[4]


def test_masks_of_a_result_are_bool_tensors_of_the_stored_shape():
    result = compute_fisher_overlap(diagonals(), share=0.5)
    for name, mask in result.shared().items():
        assert mask.dtype == torch.bool
        assert mask.shape == result.masks["math"].masks[name].shape
