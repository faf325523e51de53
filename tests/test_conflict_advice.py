"""Advice removes the conflict it was chosen on, in noise too; judged on held-out clusters it only keeps what is real."""

import functools
import itertools

import numpy as np
import pytest

import qkov
from qkov import conflict_advice, errors
from tests import arranged
from tests.statistics_models import three_tasks

METHODS = conflict_advice.METHODS


def inner_of(*parts):
    everyone = np.concatenate(parts)
    return everyone @ everyone.T


def advise(a, b, clusters=None, **options):
    codes = np.arange(len(a)) if clusters is None else clusters
    ids = tuple(f"b{one}" for one in range(len(b)))
    return conflict_advice.advise(inner_of(a, b), codes, ids, **{"seed": 1, "n_splits": 20} | options)


def conflicting(seed=0, n_a=16, n_b=12, size=40, strength=0.6):
    """A pulls along the first axis; the first third of B pulls the other way."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n_a, size)), rng.standard_normal((n_b, size))
    a[:, 0] += strength * 4
    b[: n_b // 3, 0] -= strength * 8
    return a, b


# What is chosen


def test_leaving_out_drops_the_fewest_samples_that_do():
    rng = np.random.default_rng(1)
    for _ in range(30):
        against = rng.standard_normal(7) - 0.4
        weights = conflict_advice.leave_out(against, 0.99)
        dropped = int((weights == 0).sum())
        enough = [
            len(some)
            for count in range(1, 8)
            for some in itertools.combinations(range(7), count)
            if against.sum() - against[list(some)].sum() >= 0
        ]
        if against.sum() < 0 and against.max() > 0:
            assert dropped == min(enough)
            assert against @ weights >= 0


def test_reweighting_is_the_nearest_that_does():
    from scipy import optimize

    rng = np.random.default_rng(2)
    compared = 0
    for _ in range(20):
        against = rng.standard_normal(6) - 0.3
        if against.sum() >= 0 or against.max() <= 0:
            continue
        weights = conflict_advice.reweight(against, 0.999)
        best = optimize.minimize(
            lambda w: np.square(w - 1).sum(),
            np.full(6, 0.5),
            jac=lambda w: 2 * (w - 1),
            bounds=[(0, 1)] * 6,
            constraints={"type": "ineq", "fun": lambda w, c=against: w @ c, "jac": lambda w, c=against: c},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(weights, best.x, atol=1e-5)
        assert weights @ against == pytest.approx(0, abs=1e-12)
        compared += 1
    assert compared >= 5


def test_projecting_takes_off_exactly_what_opposes():
    a, b = conflicting()
    found = advise(a, b, method="project")
    mean_a, mean_b = a.mean(0), b.mean(0)
    projected = mean_b - min(0, mean_a @ mean_b) / (mean_a @ mean_a) * mean_a
    np.testing.assert_allclose(mean_b + found.coefficient_a * mean_a, projected, rtol=1e-12)
    assert found.effects[0]["dot_after"] == pytest.approx(0, abs=1e-12)
    assert (found.weights == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_effects_are_those_of_the_means(method):
    a, b = conflicting()
    found = advise(a, b, method=method)
    after = found.weights @ b / found.weights.sum() + found.coefficient_a * a.mean(0)
    for mean, when in ((b.mean(0), "before"), (after, "after")):
        dot = a.mean(0) @ mean
        assert found.effects[0][f"dot_{when}"] == pytest.approx(dot, abs=1e-12)
        cosine = dot / np.linalg.norm(a.mean(0)) / np.linalg.norm(mean)
        assert found.effects[0][f"cosine_{when}"] == pytest.approx(cosine, abs=1e-12)
    assert found.resolved
    np.testing.assert_allclose(found.against, a.mean(0) @ b.T)


def test_without_a_conflict_nothing_is_advised():
    a, _ = conflicting()
    for method in METHODS:
        found = advise(a, a[:6] + a[6:12], method=method)
        assert (found.weights == 1).all()
        assert found.coefficient_a == 0


@pytest.mark.parametrize("method", ["leave_out", "reweight"])
def test_no_more_than_asked_for_is_lost(method):
    a, b = conflicting(strength=2.0)
    b[:, 0] = -5  # all of B opposes A
    found = advise(a, b, method=method, most=0.25)
    assert (1 - found.weights).sum() == pytest.approx(3)
    assert not found.resolved
    assert "not resolved" in repr(found)


def test_the_planted_samples_are_the_ones_left_out():
    a, b = conflicting()
    found = advise(a, b)
    assert set(found.left_out[:4]) == {"b0", "b1", "b2", "b3"}
    assert len(found.left_out) <= 5
    table = found.to_dataframe().set_index("sample_b")
    assert (table.loc[list(found.left_out), "weight"] == 0).all()
    assert table["against"].idxmin() == found.left_out[0]


# Choosing and judging on the same samples


@functools.cache
def changes(method, planted):
    """Change of the cosine where it was chosen and on the held-out half, over data sets; ``[sets, 2]``."""
    found = []
    for seed in range(60):
        a, b = conflicting(seed, strength=0.6 if planted else 0.0)
        _, same, held_out = advise(a, b, method=method, n_splits=5).effects
        found.append([one["cosine_after"] - one["cosine_before"] for one in (same, held_out)])
    return np.array(found)


@pytest.mark.parametrize("method", METHODS)
def test_noise_seems_cured_where_it_was_chosen_and_is_not_where_it_was_held_out(method):
    same, held_out = changes(method, False).T
    error = changes(method, False).std(0, ddof=1) / np.sqrt(60)
    assert same.mean() > 6 * error[0]
    assert abs(held_out.mean()) < 3 * error[1]
    assert abs(held_out.mean()) < 0.1 * same.mean()


@pytest.mark.parametrize("method", METHODS)
def test_a_real_conflict_is_cured_on_held_out_clusters_too(method):
    _, held_out = changes(method, True).T
    assert held_out.mean() > 10 * held_out.std(ddof=1) / np.sqrt(60)


def test_whole_clusters_are_held_out():
    codes, changed = np.repeat(np.arange(6), 4), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal((6, 40))[codes] * 3  # noise, but samples of a cluster are nearly the same
        a, b = shared + 0.1 * rng.standard_normal((24, 40)), rng.standard_normal((12, 40))
        changed.append([advise(a, b, clusters).held_out_change for clusters in (codes, None)])
    changed = np.array(changed)
    by_cluster, as_if_independent = changed.mean(0)
    error = changed.std(0, ddof=1) / np.sqrt(len(changed))
    assert as_if_independent > 3 * error[1], "samples of one cluster on both sides judge their own choice"
    assert by_cluster < 2 * error[0]


# On a collector


def test_advice_of_a_result_looks_at_the_chosen_groups():
    found = qkov.detect_conflicts(three_tasks(), "a", "b", progress=False)
    group = found.groups[4]
    one = found.advice(groups=group.label, seed=1)
    np.testing.assert_allclose(one.against, found.inner[4][:8, 8:].mean(0))
    everything = found.advice(seed=1)
    np.testing.assert_allclose(everything.against, found.inner.sum(0)[:8, 8:].mean(0))
    np.testing.assert_array_equal(everything.against, found.advice(groups="all", seed=1).against)
    assert (one.groups, everything.groups) == ([group.label], None)
    assert one.sample_b == found.sample_b
    for refused in ("layer 9", [], [group.label, group.label]):
        with pytest.raises(errors.OptionError, match="groups="):
            found.advice(groups=refused, seed=1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "drop"}, errors.OptionError),
        ({"most": 1.0}, errors.OptionError),
        ({"seed": None}, errors.StatisticsError),
    ],
)
def test_advice_without_meaning_is_refused(options, error):
    a, b = conflicting()
    with pytest.raises(error):
        advise(a, b, **options)
    with pytest.raises(errors.StatisticsError, match="one cluster"):
        advise(a, b, np.zeros(len(a), int))


# Clusters of samples


def two_camps(seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal((1, 4, 24))
    a, b = rng.standard_normal((10, 4, 24)), rng.standard_normal((8, 4, 24))
    a[:5] += 2 * direction
    b[:4] -= 2 * direction
    return qkov.detect_conflicts(arranged.collector_of(rows=4, columns=6, a=a, b=b), "a", "b", progress=False)


def test_opposed_camps_are_clusters_by_id():
    clusters = two_camps().cluster_samples(6)
    camps = [{("a", f"a-{100 - row}") for row in range(5)}, {("b", f"b-{100 - row}") for row in range(4)}]
    for camp in camps:
        assert any(camp <= set(members) for members in clusters.members)
    first, second = (next(n for n, members in enumerate(clusters.members) if camp <= set(members)) for camp in camps)
    assert {first, second} == set(clusters.opposed[0][:2])
    assert sum(map(len, clusters.members)) == 18
    table = clusters.to_dataframe().set_index(["cluster", "other"])
    assert table.loc[(first, second), "across_tasks"] < 0 < table.loc[(first, first), "cosine"]


def test_permuting_task_labels_inside_clusters_gives_the_mean_over_all_pairs():
    found = two_camps(3)
    clusters = found.cluster_samples(3)
    names = [*(("a", one) for one in found.sample_a), *(("b", one) for one in found.sample_b)]
    norms = np.diag(found.inner.sum(0))
    cosines = found.inner.sum(0) / np.sqrt(np.outer(norms, norms))
    places = [[names.index(one) for one in members] for members in clusters.members]
    counts = [sum(task == "a" for task, _ in members) for members in clusters.members]
    mixed = [one for one in range(3) if 0 < counts[one] < len(places[one]) > 3]
    assert mixed
    rng = np.random.default_rng(0)
    for one in mixed:
        drawn = [rng.permutation(places[one]) for _ in range(4000)]
        values = [cosines[np.ix_(order[: counts[one]], order[counts[one] :])].mean() for order in drawn]
        assert np.mean(values) == pytest.approx(clusters.cosine[one, one], abs=4 * np.std(values) / 63)


def test_noise_has_clusters_too_and_the_result_says_so():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 12, 4, 24))
    found = qkov.detect_conflicts(arranged.collector_of(rows=4, columns=6, a=a, b=b), "a", "b", progress=False)
    clusters = found.cluster_samples(4)
    inside = np.diag(clusters.cosine)
    assert np.nanmean(inside) > 0.05
    assert clusters.opposed
    assert "found in noise" in repr(clusters)
    assert "found in noise" in clusters._repr_html_()


def test_a_sample_without_a_gradient_belongs_to_no_cluster():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 5, 4, 24))
    b[1] = 0
    found = qkov.detect_conflicts(arranged.collector_of(rows=4, columns=6, a=a, b=b), "a", "b", progress=False)
    clusters = found.cluster_samples(2)
    assert clusters.left_out == (("b", "b-99"),)
    assert np.isnan(found.cosines[:, 1]).all()
    assert not np.isnan(found.columns["mean_cosine"]).any()
    for number in (1, 10, 2.0):
        with pytest.raises(errors.OptionError, match="num_clusters="):
            found.cluster_samples(number)
