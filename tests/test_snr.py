"""Signal to noise against closed forms: what would be found if the claims were true, and what noise alone gives."""

import dataclasses

import numpy as np
import pytest

from qkov.statistics import clusters as units
from validation import snr, trained_gradients

KEYS = ["study", "procedure", "data", "sets", "value", "low", "high", "bound", "direction", "status"]


@dataclasses.dataclass(frozen=True)
class Made:
    """Gradients ``[samples, slices, parameters]`` of every task in the place of a trained model's."""

    grads: np.ndarray
    clusters: dict
    name: str = "made up"

    def by_slice(self, task):
        assert task in self.clusters
        return ((one,) for one in np.moveaxis(self.grads, 1, 0))


def independent(count):
    return units.read_clusters("iid", count, "task")


def measure(grads, clusters=None, draws=50):
    """Measure ``[samples, slices, parameters]``."""
    return snr.measure(np.moveaxis(grads, 1, 0), clusters or independent(len(grads)), draws=draws)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_snr_is_the_mean_over_the_standard_deviation():
    values = np.array([[1.0, -3.0], [2.0, -3.5], [3.0, -7.0]])
    full, without, flipped = snr.of_quantities(values, independent(3), np.array([[1.0, 1, 1], [-1, 1, 1]]))
    np.testing.assert_allclose(full, [2.0, 4.5 / np.std([3, 3.5, 7], ddof=1)])
    np.testing.assert_allclose(without[0], [2.5 / np.sqrt(0.5), 5.25 / np.sqrt(6.125)])
    np.testing.assert_allclose(flipped[0], full)
    np.testing.assert_allclose(flipped[1], [4 / 3 / np.std([-1, 2, 3], ddof=1), 2.5 / np.std([3, -3.5, -7], ddof=1)])


def test_leaving_out_and_flipping_go_by_cluster():
    values, labels = noise(7, 2) + 0.3, ["a", "b", "a", "c", "c", "c", "d"]
    clusters = units.read_clusters(labels, 7, "task")
    signs = np.array([[1.0, -1, -1, 1]])
    _, without, flipped = snr.of_quantities(values, clusters, signs)
    by_hand = lambda part: np.abs(part.mean(0)) / part.std(0, ddof=1)  # noqa: E731
    for row, label in enumerate("abcd"):
        np.testing.assert_allclose(without[row], by_hand(values[np.array(labels) != label]))
    np.testing.assert_allclose(flipped[0], by_hand(values * np.array([1, -1, 1, -1, -1, -1, 1])[:, None]))


def test_the_floor_of_noise_is_the_square_root_of_two_over_pi_n():
    found = measure(noise(100, 4, 300))["parameter"]
    expected = np.sqrt(2 / np.pi / 100)
    assert found.full == pytest.approx(expected, rel=0.05)
    assert found.floor.mean() == pytest.approx(expected, rel=0.05)
    # What is above the floor is noise of the estimate, an order of magnitude below a signal of 0.3.
    assert found.above_floor()[0] < 0.03


def test_the_floor_knows_that_samples_of_a_cluster_resemble_each_other():
    clusters = units.read_clusters([k // 4 for k in range(160)], 160, "task")
    grads = np.repeat(noise(40, 3, 300), 4, axis=0)
    by_cluster, by_sample = (measure(grads, one)["parameter"].floor.mean() for one in (clusters, independent(160)))
    assert by_cluster == pytest.approx(np.sqrt(2 / np.pi / 40), rel=0.05)
    assert by_sample == pytest.approx(by_cluster / 2, rel=0.05)  # the wrong floor: half, for clusters of four


def test_a_signal_that_all_parameters_share_gains_the_root_of_their_number():
    # Were the claim's premise true: one signal, independent noise. Then slice sums gain sqrt(K), here sqrt(400) = 20.
    found = measure(noise(1500, 6, 400) + 0.2)
    gain, low, high = found["slice sum"].factor_over(found["parameter"])
    assert gain == pytest.approx(20, rel=0.05)
    assert low < 20 < high
    assert found["parameter"].full == pytest.approx(0.2, rel=0.02)
    assert found["parameter"].above_floor()[0] == pytest.approx(0.2, rel=0.02)


def test_fisher_gains_on_sums_what_unequal_noise_costs_and_nothing_per_parameter():
    # Noise of scale sigma_k and a signal of 0.1 sigma_k: 0.1 sum(sigma) / sqrt(sum(sigma^2)) before, 0.1 sqrt(K) after.
    scale = np.exp(noise(50, seed=1) * 1.5)
    found = measure((noise(4000, 4, 50) + 0.1) * scale)
    before, after = found["slice sum"], found["slice sum / sqrt(F)"]
    assert before.full == pytest.approx(0.1 * scale.sum() / np.sqrt(np.square(scale).sum()), rel=0.06)
    assert after.full == pytest.approx(0.1 * np.sqrt(50), rel=0.06)
    assert after.factor_over(before)[1] > 1.2
    assert found["parameter / sqrt(F)"].full == pytest.approx(found["parameter"].full, rel=1e-12)


def test_sums_of_squares_have_their_value_for_a_floor():
    # Chi squared with K degrees of freedom: K / sqrt(2 K), without any signal.
    found = measure(noise(3000, 3, 32))["slice sum of contributions"]
    assert found.full == pytest.approx(np.sqrt(32 / 2), rel=0.05)
    np.testing.assert_allclose(found.floor, found.full)
    assert found.above_floor()[0] == pytest.approx(0, abs=1e-6)


def test_the_scale_of_the_loss_does_not_matter():
    grads = noise(40, 2, 20)
    one, other = measure(grads), measure(grads * 1e-180)
    for name in one:
        assert other[name].full == pytest.approx(one[name].full, rel=1e-9)


def test_parameters_that_no_sample_uses_are_left_out():
    grads = noise(40, 2, 20)
    with_dead = np.concatenate([grads, np.zeros((40, 2, 5))], axis=-1)
    for name, estimate in measure(with_dead).items():
        assert estimate.full == pytest.approx(measure(grads)[name].full, rel=1e-6)


def test_the_jackknife_error_is_the_spread_over_data_sets():
    estimates = [measure(noise(60, 6, 1, seed=seed) + 0.5, draws=1)["slice sum"] for seed in range(300)]
    spread = np.std([one.full for one in estimates], ddof=1)
    half = np.mean([one.interval()[2] - one.full for one in estimates])
    assert half / 2.0 == pytest.approx(spread, rel=0.15)
    # A sample's SNR of six slices of one normal parameter is 0.5, but for the bias of 60 samples.
    assert np.mean([one.interval()[1] < 0.5 < one.interval()[2] for one in estimates]) > 0.92


def test_rows_pass_where_claims_are_not_reached_and_fail_where_they_are():
    labels = np.array([f"m{k // 2}" for k in range(200)], dtype=object)
    rows = snr.task_rows(Made(noise(200, 3, 40) + 0.02, {"code": labels}), "code", draws=20)
    assert all(list(row) == KEYS for row in rows)
    assert {row["status"] for row in rows} == {"passed"}
    assert {row["sets"] for row in rows} == {100}
    assert {row["data"] for row in rows} == {"made up, code, 200 samples"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    strong = snr.task_rows(Made(noise(200, 3, 4000) + 0.5, {"code": labels}), "code", draws=20)
    failed = [row["procedure"] for row in strong if row["status"] == "failed"]
    assert failed == [
        "parameter", "slice sum / sqrt(F)", "factor by slice sums", "slice sum of contributions",
    ]  # fmt: skip


@pytest.mark.parametrize(("long", "groups"), [(False, 1), (True, 4)])
def test_rows_name_models_and_tasks(long, groups, monkeypatch):
    labels = {task: np.array([f"{task}{k // 2}" for k in range(24)], dtype=object) for task in ("code", "prose")}
    monkeypatch.setattr(trained_gradients, "collect", lambda family: Made(noise(24, 2, 8), labels, f"trained {family}"))
    rows = snr.rows(long)
    assert len({row["data"] for row in rows}) == groups
    assert {row["study"] for row in rows} == {"SNR"}
