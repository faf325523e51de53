"""Halves of one task as a null: the scores shared by all splits, what is rejected, and what a broken test would show."""

import dataclasses

import numpy as np
import pytest

from qkov.statistics import effects, exchange, head_result, multiplicity, slices
from qkov.statistics import test_exchange as compare_tasks
from qkov.statistics import test_source as compare_sources
from validation import real_gradients, synthetic, tasks, trained_gradients

KEYS = ["study", "procedure", "data", "sets", "value", "low", "high", "bound", "direction", "status"]
LENGTH = real_gradients.Length(("made up",), 24, 8, 0.10, 0.21)


@dataclasses.dataclass(frozen=True)
class Made:
    """Gradients ``{task: [samples, slices, parameters]}`` in the place of a trained model's."""

    grads: dict
    clusters: dict
    name: str = "made up"

    def by_slice(self, *wanted):
        return zip(*([*np.moveaxis(self.grads[task], 1, 0)] for task in wanted), strict=True)


def make(*, num_slices=8, size=30, per_cluster=4, seed=0, prose_like_code=False):
    """Draw tasks of clusters with a profile each; every task has parameters of its own that matter."""
    draw = np.random.default_rng(seed)
    profiles = {task: np.exp(draw.normal(size=(num_slices, size))) for task in ("code", "prose", "arithmetic")}
    profiles["prose"] = profiles["code"] if prose_like_code else profiles["prose"]
    grads, clusters = {}, {}
    for task, number in (("code", 20), ("prose", 16), ("arithmetic", 9)):
        own = np.exp(draw.normal(size=(number, num_slices, size)) * 0.7)
        codes = np.repeat(np.arange(number), per_cluster)
        noise = draw.standard_t(4, size=(len(codes), num_slices, size))
        grads[task] = noise * profiles[task] * own[codes]
        clusters[task] = np.array([f"{task} {code}" for code in codes], dtype=object)
    return Made(grads, clusters)


@pytest.fixture(autouse=True)
def fewer_relabelings(monkeypatch):
    """A third of the seconds; eight slices need no more."""
    monkeypatch.setattr(real_gradients, "PERMUTATIONS", 199)


@pytest.fixture(scope="module")
def made():
    return make()


@pytest.fixture(scope="module")
def scores(made):
    return real_gradients.score(made)


@pytest.fixture(scope="module")
def halves(made):
    return real_gradients.sample_halves(made.clusters["code"], 24, "code")


def test_halves_have_half_of_the_clusters_and_tear_none_apart(made, halves):
    labels = made.clusters["code"]
    for first in halves:
        assert not set(labels[first]) & set(labels[~first])
        assert len(set(labels[first])) == len(set(labels[~first])) == 10
    assert len(np.unique(halves, axis=0)) == len(halves)


def test_a_split_gives_what_the_tests_give_when_called_on_halves(made, scores, halves):
    grads, labels = made.grads["code"], made.clusters["code"]
    for seed, first in enumerate(halves[:3]):
        options = {"n_permutations": real_gradients.PERMUTATIONS, "seed": seed}
        one, other = labels[first], labels[~first]
        expected = compare_tasks(grads[first], grads[~first], clusters_a=one, clusters_b=other, **options)
        found = real_gradients.exchange_halves(scores.within, labels, first, ~first, unit="clusters", seed=seed)
        np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.p, expected.p, atol=1.5 / (1 + real_gradients.PERMUTATIONS))
        expected = compare_sources(
            grads[first], grads[~first], made.grads["prose"], clusters_a=one, clusters_r=other, **options
        )
        found = real_gradients.source_halves(scores.lifts, labels, first, ~first, seed=seed)
        np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-9)
        np.testing.assert_array_equal(found.p, expected.p)


def test_a_difference_planted_between_halves_is_found_and_a_null_is_not(made, scores, halves):
    labels, first = made.clusters["code"], halves[0]
    grads, target = made.grads["code"].copy(), made.grads["prose"].copy()
    grads[np.ix_(first, range(4), range(10))] *= 4  # four slices, a third of the parameters
    target[:, :4, :10] *= 4
    by_slice = [np.moveaxis(one, 1, 0) for one in (grads, target)]
    changed = np.stack([slices.pair_scores(one) for one in by_slice[0]])
    lifts = np.column_stack([slices.log_lifts(*pair) for pair in zip(*by_slice, strict=True)])
    found = real_gradients.exchange_halves(changed, labels, first, ~first, unit="clusters", seed=1)
    assert (found.p_maxt[:4] <= 0.05).all()
    assert (found.p_maxt[4:] > 0.05).all()
    assert (real_gradients.source_halves(lifts, labels, first, ~first, seed=1).p[:4] <= 0.05).all()
    assert (real_gradients.source_halves(lifts, labels, first, ~first, seed=1).p_maxt[4:] > 0.05).all()
    null = real_gradients.exchange_halves(scores.within, labels, first, ~first, unit="clusters", seed=1)
    assert (null.p_maxt > 0.05).all()


def rows_of(made):
    found = {(row["study"], row["procedure"]): row for row in real_gradients.model_rows(made, LENGTH)}
    assert all(list(row) == KEYS for row in found.values())
    return found


def test_the_null_passes_and_ignoring_clusters_does_not(made):
    found = rows_of(made)
    assert {key: row["status"] for key, row in found.items()} == dict.fromkeys(found, "passed")
    for procedure in ("test_exchange", "test_source"):
        share = found["real null", f"{procedure}, share of slices"]
        assert share["low"] <= 0.05  # and not nothing, as from a test that never rejects:
        assert share["value"] > 0.01
        assert found["real null", f"{procedure}, FWER of max-T"]["high"] > 0.05
    invalid = found["invalid", "test_exchange, clusters ignored"]
    assert invalid["low"] > 0.10
    assert invalid["direction"] == "must exceed"
    assert [row["sets"] for row in found.values()] == [24] * 4 + [8, 8, 1, 8, 1]


def test_a_test_that_ignores_clusters_fails_its_row(made, monkeypatch):
    given = real_gradients._sides
    monkeypatch.setattr(real_gradients, "_sides", lambda labels, one, other, unit: given(labels, one, other, "samples"))
    found = rows_of(made)
    assert found["real null", "test_exchange, share of slices"]["status"] == "failed"
    assert found["real null", "test_exchange, FWER of max-T"]["status"] == "failed"


def test_max_t_without_a_maximum_fails_its_row(made, monkeypatch):
    monkeypatch.setattr(multiplicity, "step_down", multiplicity.permutation_p)
    found = rows_of(made)
    assert found["real null", "test_exchange, FWER of max-T"]["status"] == "failed"
    assert found["real null", "test_source, FWER of max-T"]["status"] == "failed"
    assert found["real null", "test_exchange, share of slices"]["status"] == "passed"


def test_a_test_that_never_rejects_fails_its_row(made, monkeypatch):
    monkeypatch.setattr(head_result.multiplicity, "permutation_p", lambda observed, null: np.ones(len(observed)))
    found = rows_of(made)
    assert found["real contrast", "test_exchange, share of slices"]["status"] == "failed"
    assert found["invalid", "test_exchange, clusters ignored"]["status"] == "failed"


def test_tasks_that_are_alike_fail_the_rows_of_contrasts():
    found = rows_of(make(prose_like_code=True))
    assert found["real contrast", "test_exchange, share of slices"]["status"] == "failed"
    assert found["real null", "test_exchange, share of slices"]["status"] == "passed"


def test_cross_within_is_the_effect_and_its_interval_a_jackknife(made, scores):
    both = np.concatenate([made.clusters["code"], made.clusters["prose"]])
    is_code = np.arange(len(both)) < len(made.clusters["code"])

    def log_ratio(kept):
        codes = np.unique(both[kept], return_inverse=True)[1]
        # Labels sort prose behind code, as the effect wants the first task's clusters first.
        num_code = len(set(both[kept & is_code]))
        assert (codes[is_code[kept]] < num_code).all()
        return np.mean([exchange.effect(one[np.ix_(kept, kept)], codes, num_code, "sym") for one in scores.across])

    value, low, high = real_gradients.cross_within(scores.across, both, is_code)
    assert value == pytest.approx(np.exp(log_ratio(np.ones(len(both), dtype=bool))), rel=1e-12)
    parts = []
    for task in ("code", "prose"):
        without = np.array([log_ratio(both != label) for label in dict.fromkeys(made.clusters[task])])
        parts.append((len(without) - 1) / len(without) * np.square(without - without.mean()).sum())
    half = np.log(high / low) / 2
    assert 1.96 < half / np.sqrt(sum(parts)) < 2.1
    assert value == pytest.approx(np.sqrt(low * high))
    assert value < 1


def test_the_ratio_of_lifts_of_one_slice_is_welchs(made, scores):
    labels = np.concatenate([made.clusters["code"], made.clusters["arithmetic"]])
    is_code = np.arange(len(labels)) < len(made.clusters["code"])
    expected = effects.source_effect(
        made.grads["code"][:, :1],
        made.grads["arithmetic"][:, :1],
        made.grads["prose"][:, :1],
        clusters_a=labels[is_code],
        clusters_r=labels[~is_code],
    )
    found = real_gradients.lift_ratio(scores.against[:, :1], labels, is_code)
    np.testing.assert_allclose(found, [expected.ratio[0], expected.low[0], expected.high[0]], rtol=1e-10)


@pytest.mark.parametrize("long", [False, True])
def test_rows_name_every_model_of_their_length(long, monkeypatch):
    monkeypatch.setattr(trained_gradients, "collect", lambda family: make(num_slices=2))
    name = "LONG" if long else "SHORT"
    length = dataclasses.replace(getattr(real_gradients, name), splits=5, contrasts=2)
    monkeypatch.setattr(real_gradients, name, length)
    found = real_gradients.rows(long)
    assert len(found) == 9 * len(length.families)
    assert {row["sets"] for row in found} == {1, length.contrasts, length.splits}


@pytest.mark.parametrize(
    ("direction", "bound", "status"),
    [("at most", 0.3, "passed"), ("at most", 0.1, "failed"), ("at least", 0.3, "failed"), ("at least", 0.1, "passed"),
     ("must exceed", 0.2, "failed"), ("must exceed", 0.1, "passed"), ("shown", None, "passed")],
)  # fmt: skip
def test_a_row_passes_as_its_direction_says(direction, bound, status):
    row = trained_gradients.row("study", "procedure", "data", 3, 0.2, 0.1, 0.3, bound, direction)
    assert list(row) == KEYS
    assert row["status"] == status


def test_slices_of_collected_text_are_the_parameters_gradients():
    texts = {
        task: tasks.TaskText(task, "held_out", ids, ids, texts)
        for task, ids, texts in (
            ("code", ("m:0", "n:1"), (b"def f", b"x = 1 + 2")),
            ("prose", ("o:0",), (b"Some words",)),
        )
    }
    model = synthetic.SyntheticLM(synthetic.SyntheticConfig(vocab_size=tasks.VOCAB_SIZE, num_kv_heads=2)).eval()
    found = trained_gradients.collect_texts("small", model, texts)
    layouts = found.collector.config.layers
    slices_of = list(found.by_slice("code", "prose"))
    assert len(slices_of) == sum(one.num_units for layout in layouts for one in layout.projections)
    assert [len(group) for group in slices_of[0]] == [2, 1]
    for row, sample in enumerate(("m:0", "n:1")):
        grads = found.collector.get_sample_gradients("code", sample)
        expected = sum(
            grads[one.param_name].double().square().sum().item() for layout in layouts for one in layout.projections
        )
        assert sum(np.square(one[row]).sum() for one, _ in slices_of) == pytest.approx(expected, rel=1e-6)
    assert found.clusters["code"].tolist() == ["m:0", "n:1"]
