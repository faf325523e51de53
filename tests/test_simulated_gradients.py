"""The generator keeps its own description: rank, profiles, loudness, clusters, what is planted and what is not."""

import numpy as np
import pytest

from validation import simulated_gradients as simulated


def matrices(grads):
    """Gradients as matrices, ``[samples, slices, rows, columns]``."""
    return grads.reshape(*grads.shape[:2], simulated.ROWS, simulated.COLUMNS)


@pytest.mark.parametrize("kind", simulated.KINDS)
def test_a_data_set_follows_from_its_number(kind):
    one, again, other = (simulated.draw_null(kind, number) for number in (3, 3, 4))
    np.testing.assert_array_equal(one.g_a, again.g_a)
    assert not np.array_equal(one.g_a, other.g_a)
    assert not np.array_equal(one.g_a, simulated.draw_null(kind, 3, stream=1).g_a)
    assert tuple(len(group) for group in (one.g_a, one.g_r, one.g_b)) == simulated.SIZES[kind]


@pytest.mark.parametrize("kind", simulated.KINDS)
def test_a_slice_of_a_sample_is_a_matrix_of_rank_three(kind):
    values = np.linalg.svd(matrices(simulated.draw_null(kind, 0).g_b), compute_uv=False)
    assert (values[..., 2] > 1e-9 * values[..., 0]).all()
    assert (values[..., 3] < 1e-9 * values[..., 0]).all()


def test_rows_and_columns_have_the_scales_of_the_profile():
    rng = np.random.default_rng(0)
    profile = simulated.draw_profile(rng, 2)
    squares = np.square(matrices(simulated.draw_task(rng, profile, "light", 20_000))).mean(0)
    for one in range(2):
        expected = np.outer(profile.rows[one] ** 2, profile.columns[one] ** 2)
        ratio = squares[one] / expected
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.1)
        np.testing.assert_allclose(ratio.mean(), simulated.RANK * np.exp(2 * 0.3**2), rtol=0.05)


def test_two_columns_of_each_slice_stand_out():
    rng, plain = np.random.default_rng(1), np.random.default_rng(1)
    base = np.exp(0.5 * plain.standard_normal((50, simulated.COLUMNS)))
    ratio = simulated.draw_profile(rng, 50).columns / base
    np.testing.assert_allclose(np.sort(ratio, axis=1)[:, -2:], 5)
    np.testing.assert_allclose(np.sort(ratio, axis=1)[:, :-2], 1)


@pytest.mark.parametrize(("kind", "spread"), [("light", 0.3), ("heavy", 1.0)])
def test_a_loud_sample_is_loud_in_all_slices(kind, spread):
    rng = np.random.default_rng(2)
    grads = simulated.draw_task(rng, simulated.draw_profile(rng, 24), kind, 500)
    size = np.log(np.linalg.norm(grads, axis=2))
    size -= size.mean(0)
    # What two slices share is the loudness alone; its variance is their covariance.
    shared = np.cov(size.T)[~np.eye(24, dtype=bool)].mean()
    assert np.sqrt(shared) == pytest.approx(spread, rel=0.12)


def test_samples_of_a_cluster_resemble_each_other():
    data = simulated.draw_null("clustered", 0)
    assert len(set(data.clusters_a)) == 12
    assert not set(data.clusters_a) & set(data.clusters_r)
    assert simulated.draw_null("light", 0).clusters_a == "iid"
    same = np.equal.outer(data.clusters_a, data.clusters_a) & ~np.eye(48, dtype=bool)
    for grads, least, most in (
        (data.g_a, 0.3, 1.0),
        (simulated.draw_task(np.random.default_rng(0), simulated.population_profiles()[0], "light", 48), -0.1, 0.1),
    ):
        columns = matrices(grads) / np.linalg.norm(grads, axis=2)[..., None, None]  # without the loudness
        size = np.log(np.square(columns).sum(2))
        size -= size.mean(0)
        alike = np.einsum("isc,jsc->ij", size, size)
        assert least < alike[same].mean() / np.diag(alike).mean() < most


def test_in_a_null_data_set_tasks_and_heads_of_a_layer_share_a_profile(monkeypatch):
    given = []
    draw = simulated.draw_task
    monkeypatch.setattr(
        simulated, "draw_task", lambda rng, profile, *rest: given.append(profile) or draw(rng, profile, *rest)
    )
    data = simulated.draw_null("heavy", 1)
    assert given[0] is given[1] is given[2]
    for layer in range(simulated.NULL_LAYERS):
        of_layer = given[0].columns[data.layers == layer]
        assert (of_layer == of_layer[0]).all()
    assert not (data.planted | data.decoys).any()


def test_planted_effects_and_decoys_are_where_they_are_said_to_be(monkeypatch):
    given = []
    draw = simulated.draw_task
    monkeypatch.setattr(
        simulated, "draw_task", lambda rng, profile, *rest: given.append(profile) or draw(rng, profile, *rest)
    )
    data = simulated.draw_partial("light", 5, kappa=3.0)
    of_a, of_r, of_b = given
    ratio = (of_a.columns / of_r.columns) ** 2
    assert (data.planted.sum(), data.decoys_a.sum(), data.decoys_b.sum()) == (8, 2, 2)
    assert not (data.planted & data.decoys).any()
    np.testing.assert_array_equal(np.any(ratio != 1, axis=1), data.planted | data.decoys_a)
    np.testing.assert_array_equal(of_a.rows, of_r.rows)
    for one in np.where(data.planted)[0]:
        largest = np.argsort(-of_b.columns[one])
        np.testing.assert_allclose(ratio[one, largest], [3.0] * 8 + [1.0] * 8)
    assert (of_b.columns[data.decoys_a] == 1).all()
    assert (of_b.rows[data.decoys_a] == 1).all()
    assert set(data.layers[data.planted]) == {1, 4}
    assert not set(data.layers[data.decoys]) & {1, 4}


def test_the_population_is_one_and_its_samples_are_many():
    first, second = (simulated.draw_population("light", number, (8, 12)) for number in (0, 1))
    assert [len(group) for group in first] == [8, 12]
    assert not np.array_equal(first[0], second[0])
    for one, other in zip(simulated.population_profiles(), simulated.population_profiles(), strict=True):
        np.testing.assert_array_equal(one.columns, other.columns)
