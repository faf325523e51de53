"""All tests in one call: equal to the functions on gradients taken another way, one slice at a time, refusals in words."""

import gc
import math
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, inference, scoring, statistics
from tests import builders
from tests.statistics_models import CLUSTERS, LENGTHS, gradients_of, three_tasks, uneven_tasks

pytestmark = pytest.mark.filterwarnings("ignore::qkov.errors.StatisticsWarning")
SLICES = [(block, layer, unit) for layer in (0, 1) for block in "QKVO" for unit in range(2 if block in "KV" else 6)]


def found_in(collector, *tasks, seed=5, n_permutations=199, clusters=None, layers=None, **options):
    test = qkov.QKOVStatistics(n_permutations=n_permutations, **{"n_splits": 5} | options)
    return test.test_heatmap(collector, *tasks, clusters=clusters, seed=seed, layers=layers, progress=False)


@pytest.fixture(scope="module")
def with_reference():
    return found_in(three_tasks(), "a", "b", "r")


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


# The same numbers by another route


@pytest.mark.parametrize(
    ("make", "alternative"),
    [(three_tasks, "greater"), (uneven_tasks, "less"), (lambda: three_tasks("gpt2"), "two-sided")],
    ids=["gqa", "uneven", "gpt2"],
)
def test_everything_equals_the_functions_on_gradients_of_the_indexer(make, alternative):
    collector = make()
    found = found_in(collector, "a", "b", "r", alternative=alternative)
    (g_a, labels), (g_b, _), (g_r, _) = (gradients_of(collector, task) for task in "abr")
    a, b, r = (list(CLUSTERS[task]) for task in "abr")
    assert list(zip(found.blocks, found.layers, found.units, strict=True)) == labels
    options = {"seed": 5, "n_permutations": 199}
    source = statistics.test_source(g_a, g_r, g_b, clusters_a=a, clusters_r=r, alternative=alternative, **options)
    exchanged = statistics.test_exchange(g_a, g_b, clusters_a=a, clusters_b=b, **options)
    for name, test in (("source", source), ("exchange", exchanged)):
        same(found.columns[f"{name}_statistic"], test.statistic)
        same(found.columns[f"{name}_effect"], test.effect)
        for column, expected in (("p", test.p), ("q", test.q_bh), ("p_maxt", test.p_maxt)):
            np.testing.assert_array_equal(found.columns[f"{name}_{column}"], expected)
        assert found.attributes["tests"][name]["claim"] == test.claim
    layers = statistics.test_layers(source, found.layers)
    assert layers.layers == found.layer_numbers
    same(found.by_layer["statistic"], layers.statistic)
    for column, expected in (("p", layers.p), ("q", layers.q_bh), ("p_maxt", layers.p_maxt)):
        np.testing.assert_array_equal(found.by_layer[column], expected)
    effect = statistics.source_effect(g_a, g_r, g_b, clusters_a=a, clusters_r=r)
    for column, expected in (
        ("source_effect", effect.ratio), ("source_effect_low", effect.low), ("source_effect_high", effect.high),
        ("superiority", effect.superiority),
    ):  # fmt: skip
        same(found.columns[column], expected)
    sides = {"clusters_a": a, "clusters_b": b}
    lift = statistics.confidence_interval(g_a, g_b, **sides)
    groups = [(block, layer) for block, layer, _ in labels]
    contrast = statistics.head_contrast(g_a, g_b, layer_of_slice=groups, **sides)
    for name, interval in (("lift", lift), ("contrast", contrast)):
        same(found.columns[name], interval.estimate)
        same(found.columns[f"{name}_low"], interval.low)
        same(found.columns[f"{name}_high"], interval.high)
    same(found.columns["contrast_p"], contrast.p)
    same(found.columns["contrast_p_adjusted"], contrast.p_adjusted)
    for estimand, measured in found.attributes["reliability"].items():
        expected = statistics.reliability(g_a, g_b, g_other=g_r, seed=5, estimand=estimand, n_splits=5, **sides)
        for name, value in measured.items():
            if isinstance(value, float):
                assert value == pytest.approx(getattr(expected, name), abs=1e-12), (estimand, name)


def test_a_route_that_swaps_tasks_would_be_noticed(with_reference):
    swapped = found_in(three_tasks(), "b", "a", "r")
    with pytest.raises(AssertionError):
        same(swapped.columns["source_statistic"], with_reference.columns["source_statistic"])


def test_a_kv_head_is_one_hypothesis(with_reference):
    assert list(zip(with_reference.blocks, with_reference.layers, with_reference.units, strict=True)) == SLICES
    q = statistics.adjust(with_reference.columns["source_p"])
    np.testing.assert_array_equal(q, with_reference.columns["source_q"])


# Clusters and layers


def test_clusters_of_the_collection_can_be_replaced_task_by_task():
    everything = {task: {f"{task}-{row}": label for row, label in enumerate(CLUSTERS[task])} for task in "abr"}
    stored = found_in(three_tasks(), "a", "b", "r", layers=0)
    given = found_in(three_tasks(clusters=False), "a", "b", "r", clusters=everything, layers=0)
    assert given == stored
    partly = found_in(three_tasks(), "a", "b", "r", clusters={"a": "iid"}, layers=0)
    assert partly.attributes["num_clusters"] == {"a": 8, "b": 5, "r": 6}
    assert partly.attributes["iid"] == {"a": True, "b": False, "r": False}
    assert partly != stored
    independent = found_in(three_tasks(), "a", "b", "r", clusters="iid", layers=0)
    assert independent.attributes["num_clusters"] == {"a": 8, "b": 6, "r": 7}
    assert independent.attributes["tests"]["source"]["unit"] == "samples, taken as independent"


@pytest.mark.parametrize("layers", [1, [1], range(1, 2)])
def test_only_the_layers_asked_for_are_the_family(layers, with_reference):
    found = found_in(three_tasks(), "a", "b", "r", layers=layers)
    assert found.layer_numbers == (1,)
    mine = np.array(with_reference.layers) == 1
    np.testing.assert_array_equal(found.columns["source_p"], with_reference.columns["source_p"][mine])
    np.testing.assert_array_equal(found.columns["source_q"], statistics.adjust(found.columns["source_p"]))


# One slice at a time


def watched(monkeypatch):
    """Count how many slices' gradients are alive whenever another one is built."""
    alive, counts, real = [], [], inference.slice_gradients

    def build(*arguments):
        counts.append(sum(one() is not None for one in alive))
        parts = real(*arguments)
        alive.extend(weakref.ref(one) for one in parts)
        return parts

    monkeypatch.setattr(inference, "slice_gradients", build)
    return counts


def test_no_slice_is_held_while_the_next_one_is_built(monkeypatch):
    counts = watched(monkeypatch)
    gc.disable()  # references alone must do: a cycle would hold a slice for as long as the collector pleases
    try:
        found_in(three_tasks(), "a", "b", "r")
    finally:
        gc.enable()
    assert counts == [0] * len(SLICES)


def test_holding_slices_would_be_noticed(monkeypatch):
    counts, held, real = watched(monkeypatch), [], inference._Sums.add
    monkeypatch.setattr(inference._Sums, "add", lambda self, parts: held.append(parts) or real(self, parts))
    found_in(three_tasks(), "a", "b", "r")
    assert max(counts) == 3 * (len(SLICES) - 1)


def test_every_slice_is_built_once(monkeypatch):
    seen, real = [], scoring.slice_tiles

    def recorded(members, projection, unit, options):
        seen.append((len(members), projection.param_name, projection.block, unit))
        return real(members, projection, unit, options)

    monkeypatch.setattr(scoring, "slice_tiles", recorded)
    found_in(three_tasks(), "a", "b", "r")
    assert len(seen) == len(set(seen)) == len(SLICES)
    assert {number for number, *_ in seen} == {sum(map(len, LENGTHS.values()))}


# What is said


def test_without_a_reference_only_a_difference_can_be_concluded():
    found = found_in(three_tasks(), "a", "b")
    assert found.main_test == "exchange"
    assert not any(name.startswith("source") for name in found.columns)
    assert inference.WITHOUT_REFERENCE in found.attributes["notes"]
    assert "That the tasks differ is all that can be concluded" in found.conclusion()
    assert "not that one interferes with the other" in found.claim
    for text in (repr(found), found._repr_html_()):
        assert "needs a reference task" in text
    assert found.attributes["reliability"]["lift"]["swap_change"] is None


def test_with_a_reference_no_such_note_is_made(with_reference):
    assert with_reference.main_test == "source"
    assert inference.WITHOUT_REFERENCE not in with_reference.attributes["notes"]
    assert "to coincide has no sign" in with_reference.conclusion()


@pytest.mark.parametrize(
    ("alternative", "words"), [("greater", "changes more than"), ("less", "less than"), ("two-sided", "more, or less,")]
)
def test_the_claim_is_about_the_alternative_that_was_tested(alternative, words):
    assert words in found_in(three_tasks(), "a", "b", "r", alternative=alternative, n_permutations=9, layers=0).claim


def test_slices_of_rounding_noise_are_not_tested_and_named():
    """The keys of equal tokens have no gradient but what rounding leaves: attention is even whatever they are."""
    model = builders.build_model("gpt2", layers=1)
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
    collector = qkov.FisherCollector()
    for task, low in (("a", 1), ("b", 7), ("r", 13)):
        ids = torch.arange(low, low + 6)[:, None].repeat(1, 5)
        collector.collect_fisher(model, {"input_ids": ids}, task, progress=False)
    found = found_in(collector, "a", "b", "r", clusters="iid")
    tested = {block: ~np.isnan(found.maps("source_p")[block]) for block in "QKVO"}
    assert not tested["Q"].any()
    assert not tested["K"].any()
    assert tested["V"].all()
    assert tested["O"].all()
    assert np.isnan(found.columns["lift"][:12]).all()
    assert "Rounding noise and nothing else, not tested: Q of layer 0, K of layer 0." in found.attributes["notes"]
    assert np.isnan(found.table()["source_p_maxt"].iloc[-12:]).all()
    assert "nothing can be tested there" in found.plot().texts[-1].get_text()


def test_few_clusters_are_warned_of_and_noted():
    with pytest.warns(errors.StatisticsWarning) as caught:
        found = found_in(three_tasks(), "a", "b", "r", layers=0)
    said = [str(one.message) for one in caught]
    assert any("'b' has 5 independent clusters; below 10" in sentence for sentence in said)
    assert {one.filename for one in caught} == {__file__}
    assert any("fewer than 32 a real difference is often missed" in note for note in found.attributes["notes"])
    assert len(said) == len(set(said))


def test_a_test_that_cannot_reject_says_so():
    with pytest.warns(errors.StatisticsWarning, match="no slice can reach p <= 0.05"):
        found = found_in(three_tasks(), "a", "b", "r", n_permutations=9, layers=0)
    assert any("no slice can reach" in note for note in found.attributes["notes"])


def test_the_same_call_gives_the_same_result_and_another_seed_another(with_reference):
    assert found_in(three_tasks(), "a", "b", "r", layers=[1, 0]) == with_reference
    other = found_in(three_tasks(), "a", "b", "r", seed=6)
    assert other != with_reference
    np.testing.assert_array_equal(other.columns["source_statistic"], with_reference.columns["source_statistic"])


def test_float32_gradients_agree_with_float64(with_reference):
    narrow, wide = found_in(three_tasks(dtype=torch.float32), "a", "b", "r"), with_reference
    for name in ("source_effect", "lift", "exchange_effect"):
        np.testing.assert_allclose(narrow.columns[name], wide.columns[name], rtol=1e-3, atol=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("tasks", "options", "error", "message"),
    [
        ("abx", {}, errors.UnknownTaskError, "no task 'x' was collected"),
        ("aba", {}, errors.OptionError, "not all different"),
        ("aa", {}, errors.OptionError, "not all different"),
        ("abr", {"seed": None}, errors.StatisticsError, "seed=None"),
        ("abr", {"seed": -1}, errors.StatisticsError, "seed=-1"),
        ("abr", {"layers": []}, errors.OptionError, "at least one layer"),
        ("abr", {"layers": [1, 1]}, errors.OptionError, "each once"),
        ("abr", {"layers": [7]}, errors.SliceIndexError, "No attention in layer 7"),
        ("abr", {"clusters": "id"}, errors.StatisticsError, "clusters is 'id'"),
        ("abr", {"clusters": ["m", "n"]}, errors.StatisticsError, "expected 'iid', or {task"),
        ("abr", {"clusters": {"a": ["m", "n"]}}, errors.StatisticsError, "clusters of task 'a' are"),
        ("abr", {"clusters": {"a": "each"}}, errors.StatisticsError, "the word 'iid'"),
        ("abr", {"clusters": {"c": "iid"}}, errors.StatisticsError, "'c', which is none of the tested tasks"),
        ("abr", {"clusters": {"a": {"a-0": 1}}}, errors.StatisticsError, "no label for sample 'a-1'"),
        ("abr", {"clusters": {"a": {f"a-{i}": 1 for i in range(8)}}}, errors.StatisticsError, "has 1 independent"),
        ("abr", {"clusters": {"a": {f"a-{i}": f"n{i}" for i in range(8)}}}, errors.StatisticsError, "in both task 'a'"),
        ("abr", {"clusters": {"r": {f"r-{i}": f"n{i}" for i in range(7)}}}, errors.StatisticsError, "both task 'b'"),
        ("abr", {"alternative": "more"}, errors.OptionError, "alternative"),
        ("abr", {"adjust": "none"}, errors.OptionError, "adjust"),
        ("abr", {"level": 95}, errors.StatisticsError, "level=95"),
        ("abr", {"n_permutations": 0}, errors.StatisticsError, "n_permutations=0"),
        ("abr", {"n_splits": 0}, errors.StatisticsError, "n_splits=0"),
    ],
)  # fmt: skip
def test_what_would_not_be_valid_is_refused_before_anything_is_built(tasks, options, error, message, monkeypatch):
    monkeypatch.setattr(inference, "slice_gradients", lambda *_: pytest.fail("a slice was built"))
    with pytest.raises(error, match=message):
        found_in(three_tasks(), *tasks, **options)


def test_missing_clusters_are_refused_with_what_to_do():
    with pytest.raises(errors.StatisticsError, match=r"collected without clusters. Give them to collect_fisher"):
        found_in(three_tasks(clusters=False), "a", "b")
    with pytest.raises(errors.StatisticsError, match="task 'b' was collected without clusters"):
        found_in(three_tasks(clusters=False), "a", "b", clusters={"a": "iid"})


def test_an_empty_task_is_refused():
    collector = qkov.FisherCollector()
    model, ids = builders.build_model("llama", layers=1), torch.ones(2, 4, dtype=torch.long)
    collector.collect_fisher(model, {"input_ids": ids}, "a", clusters=[0, 1], progress=False)
    collector.collect_fisher(model, {"input_ids": ids[:0]}, "b", progress=False)
    with pytest.raises(errors.EmptyTaskError, match="task 'b' holds no samples"):
        found_in(collector, "a", "b")


def test_seed_has_no_default():
    with pytest.raises(TypeError, match="seed"):
        qkov.QKOVStatistics().test_heatmap(three_tasks(), "a", "b")


def test_other_warnings_keep_their_class(monkeypatch):
    real = inference.test_layers
    monkeypatch.setattr(inference, "test_layers", lambda *given: warnings.warn("odd", UserWarning, 1) or real(*given))
    with pytest.warns(UserWarning, match="odd") as caught:
        found_in(three_tasks(), "a", "b", layers=0)
    assert {one.category for one in caught if str(one.message) == "odd"} == {UserWarning}


def test_an_accelerator_that_is_not_there_is_refused():
    with pytest.raises(errors.OptionError, match="computation_device='quantum'"):
        qkov.QKOVStatistics().test_heatmap(three_tasks(), "a", "b", seed=1, computation_device="quantum")


def test_thousands_of_units_have_a_count_of_relabelings_that_can_be_written():
    """Python refuses to write more than 4300 digits: 7,200 units of each task have 4333."""
    found = SimpleNamespace(
        null_statement="", claim="", effect_name="", alternative="greater", unit="", n_permutations=9999, min_p=1e-4,
        seed=0, n_distinct=math.comb(14_400, 7_200),
    )  # fmt: skip
    assert inference._words(found)["n_distinct"] == "about 1e4332"
    found.n_distinct = 10
    assert inference._words(found)["n_distinct"] == "10"
