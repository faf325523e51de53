"""The negative controls do what they are said to do wrong, and are told apart from ours on the same data."""

import ast
from pathlib import Path

import numpy as np
import pytest

from qkov import statistics
from validation import calibration_cells as cells
from validation import invalid_procedures as invalid
from validation import simulated_gradients as simulated

DATA = simulated.draw_null("light", 0)


def test_order_of_rows_never_mattered():
    assert (invalid.rows_permuted(DATA.g_a, DATA.g_b, n_permutations=50, seed=0) < 1e-6).all()
    # The reason in float64: the average over rows is the same sum in another order.
    rows = np.square(DATA.g_a[:, 0])
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(rows[order].mean(0), rows.mean(0), rtol=1e-13)


def test_the_mean_of_a_non_negative_score_is_always_significant():
    assert (invalid.pairs_z(DATA.g_a, DATA.g_b) < 1e-6).all()


def test_pairs_are_counted_as_if_they_were_independent():
    """Every sample twice: nothing was learnt, and the p values of pairs fall all the same."""
    twice = [np.concatenate([group, group]) for group in (DATA.g_a, DATA.g_r, DATA.g_b)]
    once, doubled = invalid.pairs_welch(DATA.g_a, DATA.g_r, DATA.g_b), invalid.pairs_welch(*twice)
    assert (doubled < once).all()


def test_the_interval_of_pairs_shrinks_when_samples_are_repeated():
    low, high = invalid.pairs_bootstrap(DATA.g_a, DATA.g_b, n_draws=200, seed=0)
    twice = invalid.pairs_bootstrap(*(np.concatenate([g, g]) for g in (DATA.g_a, DATA.g_b)), n_draws=200, seed=0)
    np.testing.assert_allclose((twice[1] - twice[0]) / (high - low), 0.5, rtol=0.3)


def test_the_effect_size_is_the_cosine():
    effect, equal = invalid.norm_effect(DATA.g_a, DATA.g_b)
    np.testing.assert_allclose(effect, equal, atol=1e-12)
    assert effect.min() > 0.01


def test_a_loud_sample_is_a_cluster_of_cells():
    rng = np.random.default_rng(1)
    loud = rng.standard_normal((20, 1, 30))
    loud[::5] *= 10
    flat = np.abs(rng.standard_normal((20, 1, 30)))
    assert invalid.cell_clusters(loud, flat, n_permutations=99, seed=0)[0] <= 0.05


def test_model_norm_turns_a_change_elsewhere_into_a_difference():
    """One slice of A grows fourfold; in the others nothing happens, but their shares fall."""
    rng = np.random.default_rng(2)
    g_a, g_r, g_b = rng.standard_normal((3, 40, 4, 30))
    g_a[:, 0] *= 4
    drawn = {"n_permutations": 499, "seed": 0}
    assert (invalid.model_norm(g_a, g_r, g_b, **drawn) <= 0.05).all()
    assert (statistics.test_exchange(g_a, g_r, clusters_a="iid", clusters_b="iid", **drawn).p > 0.01).all()


def test_frozen_fisher_depends_on_which_task_is_called_a():
    p = invalid.frozen_fisher(DATA.g_a, DATA.g_r, DATA.g_b, n_permutations=199, seed=0)
    assert (p <= 0.05).mean() > 0.15


def test_each_control_has_a_reason_and_a_band_that_it_must_exceed():
    bands = [band for cell in cells.CELLS.values() for band in cell.bands if band.study == "invalid"]
    assert {band.direction for band in bands} == {"must exceed"}
    for name, reason in invalid.WHY.items():
        assert reason
        assert any(band.procedure.startswith(name) for band in bands), name
    assert all(any(band.procedure.startswith(name) for name in invalid.WHY) for band in bands)


def test_the_product_never_imports_them():
    root = Path(__file__).parent.parent / "qkov"
    for path in root.rglob("*.py"):
        names = [
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not any("invalid_procedures" in name for name in names)


@pytest.mark.parametrize("kind", ["light", "clustered"])
def test_seen_failing_beside_ours(kind):
    cell = cells.CELLS[f"invalid {kind}"]
    found = [cell.measure(number, 499) for number in range(4)]
    for band in cell.bands:
        value = np.mean([one[band.series] for one in found])
        if band.beside:
            assert value > np.mean([one[band.beside] for one in found]), band.procedure
