"""Summaries of all pairs: what a heatmap says of them, without the pairs."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import qkov
from qkov import errors, formula, interference, memory, pair_summary, scoring, slice_labels, strongest, summary_frame
from qkov.geometry import BLOCKS
from qkov.pair_summary import PairSummary, load_pair_summary
from tests import builders
from tests.statistics_models import three_tasks, uneven_tasks

ROOT = Path(__file__).resolve().parent.parent
FLOAT = {torch.float64: 1e-12, torch.float32: 1e-6}

pytestmark = pytest.mark.filterwarnings("ignore::qkov.errors.DampingWarning")


def metric_of(collector, **options):
    return qkov.QKOVInterferenceMetric(collector.config, collector, **{"min_samples_for_fisher": 0} | options)


def both(collector, *, most=None, layers=None, heads=None, top_k=10, tasks=("a", "b"), **options):
    """A heatmap and a summary of the same scores."""
    metric = metric_of(collector, **options)
    chosen = {"max_samples_per_task": most, "layers": layers, "heads": heads, "progress": False}
    return metric.compute_heatmap(*tasks, **chosen), metric.compute_summary(*tasks, top_k=top_k, **chosen)


def largest_error(heatmap, summary):
    """Largest difference of a mean from that of the pairs, relative to the largest score of its slice's block."""
    worst = 0.0
    for block in BLOCKS:
        scores = heatmap.arrays[block]
        exists = heatmap.exists(block)
        scale = np.abs(scores[:, :, exists]).max()
        for found, expected in (
            (summary.by_a[block], scores.mean(1)), (summary.by_b[block], scores.mean(0)),
            (summary.mean_map(block), heatmap.mean_map(block)),
        ):  # fmt: skip
            assert found.shape == expected.shape
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
            worst = max(worst, np.abs(found - expected)[..., exists].max() / scale)
    return worst


# What it says


@pytest.mark.parametrize("dtype", FLOAT)
@pytest.mark.parametrize("variant", formula.VARIANTS + formula.MATRIX_VARIANTS)
def test_means_are_those_of_the_heatmap(variant, dtype):
    heatmap, summary = both(three_tasks(dtype=dtype), variant=variant, fisher_pool="pooled")
    assert largest_error(heatmap, summary) < FLOAT[dtype]
    for name in ("sample_a", "sample_b", "layers", "heads", "kv_heads", "task_a", "task_b"):
        assert getattr(summary, name) == getattr(heatmap, name)
    assert summary.attributes == heatmap.attributes | {
        "top_k": 10, "num_pairs": 48, **({"lift_note": summary_frame.NO_LIFT} if variant in ("full", "kfac") else {}),
    }  # fmt: skip
    for block in BLOCKS:
        for stat, values in summary.health[block].items():
            np.testing.assert_allclose(values, heatmap.health[block][stat], rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOAT)
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_mean_over_a_is_the_norm_of_the_gradient_of_b(dtype, aggregate):
    """The marginal identity: no pair is needed to see that the average carries no information on A."""
    metric = metric_of(three_tasks(dtype=dtype), aggregate=aggregate, ridge_lambda_rel=1e-14)
    summary, norms = metric.compute_summary("a", "b", top_k=0, progress=False), metric.compute_gradient_norms("b")
    for block in BLOCKS:
        np.testing.assert_allclose(summary.by_b[block], norms[block], rtol=10 * FLOAT[dtype])
    assert "no information on task A" in summary.attributes["average_caveat"]


def test_means_over_the_wrong_task_are_noticed(monkeypatch):
    real = scoring.score_marginals

    def exchanged(*arguments):
        found = real(*arguments)
        return dataclasses.replace(found, by_a=found.by_b, by_b=found.by_a)

    monkeypatch.setattr(scoring, "score_marginals", exchanged)
    heatmap, summary = both(three_tasks(), tasks=("a", "a"))
    assert largest_error(heatmap, summary) > 1e-3


@pytest.mark.parametrize("selection", [
    {"layers": [1, 0], "heads": [5, 0, 1]}, {"heads": [4]}, {"most": 3}, {"tasks": ("a", "a")},
])  # fmt: skip
def test_selections_are_those_of_the_heatmap(selection):
    heatmap, summary = both(three_tasks(), variant="signed", fisher_pool="pooled", **selection)
    assert largest_error(heatmap, summary) < 1e-12
    for block in BLOCKS:
        assert summary.top_conflicts(block) == heatmap.top_conflicts(block)


def test_slices_that_a_layer_lacks_are_absent():
    heatmap, summary = both(uneven_tasks())
    assert not summary.exists("Q").all()
    assert largest_error(heatmap, summary) < 1e-12
    assert len(summary.to_dataframe()) == len(heatmap.to_dataframe("slice"))
    assert summary.top_conflicts("Q") == heatmap.top_conflicts("Q")


def test_lift_is_that_of_the_gradients():
    collector = three_tasks()
    metric = metric_of(collector, fisher_pool="pooled")
    summary = metric.compute_summary("a", "b", top_k=0, progress=False)
    sides = [scoring.Side.of_task(collector, task, None, metric.options) for task in "ab"]
    whole = dataclasses.replace(metric.options, tile_elements=2**40)
    for layout in collector.config.layers:
        for projection in layout.projections:
            mean = np.mean([side.block_mean(layout, projection, whole) for side in sides])
            for unit in range(projection.num_units):
                grads = [next(scoring.slice_tiles(side.members, projection, unit, whole)) for side in sides]
                fishers = [
                    (formula.normalise(one, side.tokens) ** 2).mean(0) for one, side in zip(grads, sides, strict=True)
                ]
                expected = formula.lift(*grads, formula.damp(sum(fishers) / 2, mean))
                found = summary.lift[projection.block][:, layout.layer, unit]
                np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_slice_without_gradients_of_b_has_no_lift():
    """0, not 0 / 0: B's loss does not reach the layer, A's does."""
    model = builders.build_model("llama")
    collector = qkov.FisherCollector()
    collector.collect_fisher(model, builders.build_batch((5, 6)), "a", progress=False)
    batch = builders.build_batch((5, 4), seed=2)
    collector.collect_fisher(model, batch, "b", loss_fn=_of_the_first_layer, progress=False)
    heatmap, summary = both(collector, fisher_pool="pooled")
    assert largest_error(heatmap, summary) < 1e-12
    for block in BLOCKS:
        assert not summary.by_a[block][:, 1].any()
        assert not summary.lift[block][:, 1].any()
        assert summary.lift[block][:, 0].all()


def _of_the_first_layer(model, batch):
    hidden = model(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True).hidden_states[
        1
    ]
    return (hidden.square() * batch["attention_mask"][:, :, None]).sum((1, 2))


# The strongest pairs


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), min_size=96, max_size=96),
    top_k=st.integers(0, 100),
    ascending=st.booleans(),
    order=st.permutations(range(8)),
)
@settings(max_examples=60)
@example(values=[1.0] * 96, top_k=5, ascending=False, order=list(reversed(range(8))))
def test_the_strongest_are_those_of_all_pairs_together(values, top_k, ascending, order):
    scores = np.array(values).reshape(8, 3, 4)  # slices, then pairs
    found = strongest.Strongest.none(top_k, ascending=ascending)
    for rank in order:
        found = found.with_slice(rank, scores[rank])
    keys = scores.reshape(-1) if ascending else -scores.reshape(-1)
    expected = np.argsort(keys, kind="stable")[:top_k]
    assert (found.ranks * 12 + found.places).tolist() == expected.tolist()
    assert found.scores.tolist() == scores.reshape(-1)[expected].tolist()


@pytest.mark.parametrize("top_k", [1, 7, 50, 10**6])
@pytest.mark.parametrize("options", [{}, {"variant": "signed", "fisher_pool": "pooled"}, {"variant": "full"}])
def test_strongest_pairs_are_those_of_the_heatmap(options, top_k):
    heatmap, summary = both(three_tasks(), top_k=top_k, **options)
    for block in BLOCKS:
        assert summary.top_conflicts(block) == heatmap.top_conflicts(block, top_k=top_k)
        assert summary.top_conflicts(block, top_k=1) == heatmap.top_conflicts(block, top_k=1)


def tied(real):
    """Scores of which many are equal, in many slices."""

    def score_slice(*arguments):
        found = real(*arguments)
        ranked = found.scores.flatten().argsort().argsort().reshape(found.scores.shape)
        return dataclasses.replace(found, scores=(ranked % 3).double())

    return score_slice


@pytest.mark.parametrize("selection", [{}, {"layers": [1, 0], "heads": [5, 2, 3, 0]}])
@pytest.mark.parametrize("variant", ["unsigned", "signed"])
def test_ties_are_broken_as_in_the_heatmap(monkeypatch, variant, selection):
    monkeypatch.setattr(scoring, "score_slice", tied(scoring.score_slice))
    heatmap, summary = both(three_tasks(), variant=variant, top_k=25, **selection)
    for block in BLOCKS:
        rows = summary.top_conflicts(block)
        assert len({row["score"] for row in rows}) == 1
        assert len({(row["layer"], row["head"]) for row in rows}) > 1
        assert rows == heatmap.top_conflicts(block, top_k=25)


def test_ties_in_the_order_of_computing_are_noticed(monkeypatch):
    """Planted: slices ranked as they come instead of by their numbers."""
    monkeypatch.setattr(scoring, "score_slice", tied(scoring.score_slice))
    metric, chosen = metric_of(three_tasks()), {"layers": [0], "heads": [5, 2, 3, 0], "progress": False}
    heatmap = metric.compute_heatmap("a", "b", **chosen)
    as_they_come = slice_labels.SliceLabels.ordered
    monkeypatch.setattr(slice_labels.SliceLabels, "ordered", lambda self, block: sorted(as_they_come(self, block)))
    summary = metric.compute_summary("a", "b", top_k=25, **chosen)
    monkeypatch.undo()
    assert summary.top_conflicts("Q") != heatmap.top_conflicts("Q", top_k=25)


def test_top_k_changes_nothing_but_the_list():
    _, some = both(three_tasks(), top_k=3)
    _, none = both(three_tasks(), top_k=0)
    for name in ("by_a", "by_b", "lift"):
        for block in BLOCKS:
            np.testing.assert_array_equal(getattr(some, name)[block], getattr(none, name)[block])
    assert none.strongest == dict.fromkeys(BLOCKS, ())
    assert none.top_conflicts("Q") == []
    assert "strongest conflict not kept" in repr(none)
    with pytest.raises(errors.OptionError, match="this summary kept the strongest 3"):
        some.top_conflicts("Q", top_k=4)


# Nothing of the size of all pairs


class Shapes(TorchDispatchMode):
    """Every shape that an operation returns which makes something new: a part of a tensor may be of any shape."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        if any(one.alias_info is not None for one in func._schema.returns):
            return found
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, torch.Tensor):
                self.seen.add(tuple(one.shape))
        return found


@pytest.mark.parametrize("variant", formula.VARIANTS)
@pytest.mark.parametrize("top_k", [0, 1])
def test_without_a_list_no_pair_is_formed(variant, top_k):
    """And with one it is, or nothing would be measured; 8 x 6 samples, no other size of which is 8 x 6 or 6 x 8."""
    metric = metric_of(three_tasks(), variant=variant)
    metric.compute_summary(
        "a", "b", top_k=top_k, progress=False
    )  # norms of samples, kept with them: of 6 tokens by 8 too
    with Shapes() as shapes:
        metric.compute_summary("a", "b", top_k=top_k, progress=False)
    assert shapes.seen
    assert bool({(8, 6), (6, 8)} & shapes.seen) == (top_k > 0)


MEASURED = """
import sys
import numpy as np, torch
import qkov
from qkov import score_warnings, scoring, slice_scorer
from tests.statistics_models import three_tasks
from tests.test_score_files import peak

count, top_k = 1100, int(sys.argv[1])
collector = three_tasks()

def fake_scores(*_):
    return scoring.SliceScores(torch.rand(count, count, dtype=torch.float64), 1, {})

def fake_means(*_):
    return scoring.SliceMarginals(torch.ones(count), torch.ones(count), torch.ones(count), 1, {})

metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=0)
metric.compute_summary("a", "b", progress=False)
scoring.score_slice, scoring.score_marginals = fake_scores, fake_means
class Named:
    def __init__(self, number): self.sample_id = number
metric._members = lambda *_: [[Named(number) for number in range(count)]] * 2
metric._scorer = lambda *_, **__: slice_scorer.SliceScorer((None, None), metric.options)
score_warnings.warn_if_underflown = lambda *_: None
before = peak()
if top_k < 0:
    found = metric.compute_heatmap("a", "b", progress=False)
else:
    found = metric.compute_summary("a", "b", top_k=top_k, progress=False)
print(8 * count**2 * (len(found.layers) * 16), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from Linux")
@pytest.mark.parametrize("top_k", [10, -1], ids=["summary", "heatmap"])
def test_memory_is_that_of_one_slice(top_k):
    """And of a heatmap that of all, or nothing would be measured."""
    command = [sys.executable, "-c", MEASURED, str(top_k)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    scores, growth = map(int, done.stdout.split() or [done.stderr, ""])
    assert scores == 8 * 1100**2 * 32  # 310 MB, 9.7 MB a slice
    assert growth < 60e6 if top_k > 0 else growth > scores


def test_more_than_the_memory_is_refused(monkeypatch):
    metric = metric_of(three_tasks())
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 * 2 * 32 * (2 * 8 + 6) / memory.SHARE)
    metric.compute_summary("a", "b", top_k=0, progress=False)
    monkeypatch.setattr(interference.summary_frame, "SummaryFrame", None)
    with pytest.raises(errors.MemoryLimitError, match=r"a summary of 8 x 6 samples on 2 layers, 32 slices,"):
        metric.compute_summary("a", "b", top_k=1, progress=False)


def test_a_memory_budget_holds_for_a_summary_too():
    """And attributes say with which tiles it was made, not which were asked for."""
    metric = metric_of(three_tasks(), memory_budget=1)
    with pytest.raises(errors.MemoryLimitError, match=r"the result takes 5\.63 kB more"):  # 8 (8 + 6 + 8) 32 bytes
        metric.compute_summary("a", "b", progress=False)


def test_attributes_say_which_tiles_were_used(monkeypatch):
    metric = metric_of(three_tasks())
    plain = metric.compute_summary("a", "b", progress=False)
    monkeypatch.setattr(
        interference.score_memory, "fit", lambda options, *_, **__: dataclasses.replace(options, tile_elements=77)
    )
    found = metric.compute_summary("a", "b", progress=False)
    assert plain.attributes["tile_elements"] != found.attributes["tile_elements"] == 77
    for block in BLOCKS:
        np.testing.assert_allclose(found.by_a[block], plain.by_a[block], rtol=1e-10)
        np.testing.assert_allclose(found.lift[block], plain.lift[block], rtol=1e-10)


# Edges


def test_an_empty_task_b_is_as_in_a_heatmap():
    metric = metric_of(three_tasks())
    with pytest.warns(errors.EmptyTaskWarning) as caught:
        summary = metric.compute_summary("a", "never collected", progress=False)
    assert caught[0].filename == __file__
    assert summary.attributes["valid"] is False
    assert (summary.num_pairs, summary.sample_b) == (0, ())
    for block in BLOCKS:
        assert summary.by_b[block].shape == (0, *summary.mean_map(block).shape)
        assert not summary.by_a[block].any()
        assert not summary.mean_map(block).any()
        assert summary.top_conflicts(block) == []
    assert "0 pairs" in repr(summary)
    assert len(summary.to_dataframe()) == 32
    assert len(summary.to_dataframe("sample_b")) == len(summary.to_dataframe("pair")) == 0
    with pytest.raises(errors.UnknownTaskError):
        metric.compute_summary("never collected", "b", progress=False)


@pytest.mark.parametrize("top_k", [-1, 1.5, True, None, "3"])
def test_a_number_of_pairs_that_is_none_is_refused(top_k):
    with pytest.raises(errors.OptionError, match="expected a number of pairs from 0 up"):
        metric_of(three_tasks()).compute_summary("a", "b", top_k=top_k, progress=False)


def test_few_samples_are_warned_of():
    metric = metric_of(three_tasks(), min_samples_for_fisher=9)
    with pytest.warns(errors.FewSamplesWarning) as caught:
        metric.compute_summary("a", "b", top_k=0, progress=False)
    assert caught[0].filename == __file__


# The result


def made(**changes):
    """A small summary of a made-up collection, its fields replaced."""
    random = np.random.default_rng(3)
    grid = {"Q": (2, 4), "K": (2, 2), "V": (2, 2), "O": (2, 4)}
    values = {
        "task_a": "code", "task_b": "prose", "sample_a": ("x", "y", "z"), "sample_b": (5, 6),
        "layers": (4, 9), "heads": (0, 1, 2, 3), "kv_heads": (0, 1), "kv_index": np.tile([0, 0, 1, 1], (2, 1)),
        "by_a": {block: random.random((3, *shape)) for block, shape in grid.items()},
        "by_b": {block: random.random((2, *shape)) for block, shape in grid.items()},
        "lift": {block: random.random((3, *shape)) for block, shape in grid.items()},
        "health": {block: {"damping": random.random(shape)} for block, shape in grid.items()},
        "strongest": {
            block: ({"sample_i": "y", "sample_j": 6, "layer": 9, "head": 2, "score": 1.5}
                    | ({"kv_head": 1} if block in "KV" else {}),)
            for block in BLOCKS
        },
        "attributes": {"variant": "unsigned", "fisher_pool": "A", "top_k": 1, "average_caveat": "No <b>news</b> of $A$."},
    }  # fmt: skip
    return PairSummary(**values | changes)


def test_more_than_2_to_the_31_pairs_are_counted():
    summary = made(
        sample_a=tuple(range(70_000)), sample_b=tuple(range(70_000)), layers=(0,), heads=(0,), kv_heads=(0,), kv_index=[[0]],
        by_a={block: np.ones((70_000, 1, 1)) for block in BLOCKS},
        by_b={block: np.ones((70_000, 1, 1)) for block in BLOCKS},
        lift={}, health={block: {} for block in BLOCKS}, strongest=dict.fromkeys(BLOCKS, ()),
    )  # fmt: skip
    assert summary.num_pairs == 4_900_000_000
    assert "4,900,000,000 pairs" in repr(summary)


def test_it_comes_back_from_a_file_bit_for_bit(tmp_path):
    for summary in (made(), made(lift={}), both(uneven_tasks(), variant="signed", fisher_pool="pooled")[1]):
        loaded = load_pair_summary(summary.save(tmp_path / "x"))
        assert loaded == summary
        assert loaded.save(tmp_path / "y").read_bytes() == (tmp_path / "x").read_bytes()
        assert loaded.strongest == summary.strongest
        assert loaded.data.identical(summary.data)
    assert made() != made(task_b="verse")
    assert made() != "a summary"
    with pytest.raises(TypeError):
        hash(made())


def test_negative_zero_is_zero_and_arrays_are_copied():
    mine = {block: -np.zeros_like(values) for block, values in made().by_a.items()}
    summary = made(by_a=mine)
    mine["Q"][:] = 1
    assert summary == made(by_a={block: np.zeros_like(values) for block, values in mine.items()})
    with pytest.raises(ValueError, match="read-only"):
        summary.by_a["Q"][0] = 1


STRANGE = {"sample_i": "w", "sample_j": 6, "layer": 9, "head": 2, "score": 1.5}
GOOD = STRANGE | {"sample_i": "y"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sample_a": ("x", "x", "z")}, errors.SampleIdError, "more than once"),
        ({"sample_b": (5, 6, 7)}, errors.ShapeError, r"by_b\['Q'\] has shape"),
        ({"kv_index": np.full((2, 4), 2)}, errors.ShapeError, "kv_index runs"),
        ({"by_a": {}}, errors.ShapeError, "by_a has blocks"),
        ({"by_a": made().by_a | {"V": np.full((3, 2, 2), np.nan)}}, errors.NonFiniteError, "by_a of block V"),
        ({"lift": made().lift | {"O": np.full((3, 2, 4), np.inf)}}, errors.NonFiniteError, "lift of block O"),
        ({"present": [[True] * 4, [False] * 4], "kv_index": [[0, 0, 1, 1], [-1] * 4]}, errors.ShapeError, "declared absent"),
        ({"health": {"Q": {}}}, errors.ShapeError, "health has blocks"),
        ({"health": made().health | {"Q": {}}}, errors.ShapeError, "different statistics"),
        ({"attributes": {"x": float("nan")}}, errors.OptionError, "cannot be written as JSON"),
        ({"strongest": {}}, errors.ShapeError, "strongest has blocks"),
        ({"strongest": made().strongest | {"Q": (STRANGE,)}}, errors.OptionError, "none of this summary"),
        ({"strongest": made().strongest | {"Q": (GOOD | {"layer": 5},)}}, errors.OptionError, "none of this summary"),
        ({"strongest": made().strongest | {"Q": (GOOD | {"score": "1"},)}}, errors.OptionError, "none of this summary"),
        ({"strongest": made().strongest | {"K": (GOOD,)}}, errors.OptionError, "none of this summary"),
    ],
)  # fmt: skip
def test_fields_that_do_not_belong_together_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        made(**changes)


def test_tables_hold_each_truth_once():
    summary = made()
    slices = summary.to_dataframe()
    assert list(slices) == [
        "block", "layer", "head", "kv_head", "mean", "sd_over_a", "sd_over_b", "lift", "lift_sd", "rank", "damping",
    ]  # fmt: skip
    assert len(slices) == 24
    row = slices[(slices["block"] == "K") & (slices["layer"] == 9) & (slices["kv_head"] == 1)].iloc[0]
    means = summary.by_a["K"][:, 1, 1]
    assert row["mean"] == pytest.approx(means.mean(), rel=1e-14)
    assert row["sd_over_a"] == pytest.approx(means.std(), rel=1e-14)
    assert row["lift"] == pytest.approx(summary.lift["K"][:, 1, 1].mean(), rel=1e-14)
    samples = summary.to_dataframe("sample_b")
    assert list(samples) == ["block", "layer", "head", "kv_head", "sample_b", "mean"]
    row = samples[
        (samples["block"] == "O") & (samples["layer"] == 4) & (samples["head"] == 3) & (samples["sample_b"] == 6)
    ]
    assert row["mean"].tolist() == [summary.by_b["O"][1, 0, 3]]
    row = summary.to_dataframe("sample_a").iloc[4]
    assert (row["head"], row["sample_a"]) == (1, "y")
    assert (row["mean"], row["lift"]) == (summary.by_a["Q"][1, 0, 1], summary.lift["Q"][1, 0, 1])
    pairs = summary.to_dataframe("pair")
    assert pairs["score"].tolist() == [1.5] * 4
    assert pairs["kv_head"].tolist() == [1] * 4
    assert pairs["head"].isna().tolist() == [False, True, True, False]
    assert pairs.attrs["variant"] == "unsigned"
    with pytest.raises(errors.OptionError, match="expected one of"):
        summary.to_dataframe("head")


def test_dataset_is_selected_by_true_numbers_and_ids():
    summary = made()
    assert float(summary.data["by_b"].sel(block="V", layer=9, head=3, sample_b=6)) == summary.by_b["V"][1, 1, 1]
    assert float(summary.data["lift"].sel(block="O", layer=4, head=3, sample_a="z")) == summary.lift["O"][2, 0, 3]
    assert float(summary.data["damping"].sel(block="Q", layer=4, head=3)) == summary.health["Q"]["damping"][0, 3]
    assert summary.data.attrs["task_b"] == "prose"
    assert "lift" not in made(lift={}).data


def test_it_shows_itself_with_its_caveat_and_names_escaped():
    summary = made(task_a="<i>code</i>", attributes=made().attributes | {"lift_note": "No lift."})
    text, html = repr(summary), summary._repr_html_()
    assert text.startswith(
        "<PairSummary <i>code</i> x prose: unsigned, Fisher of A; 3 x 2 samples, 6 pairs, layers 2, heads 4"
    )
    assert "1.5 at layer 9, kv head 1, 'y' x 6" in text
    for said in (text, html):
        assert "No lift." in said
    assert "<i>" not in html
    assert "<b>news</b>" not in html
    assert html.startswith('<div class="tex2jax_ignore')
    assert "mean lift none" in repr(made(lift={}))
    assert "\x1b" not in repr(made(task_b="\x1b[31m"))


def test_the_picture_is_that_of_the_averages():
    heatmap, summary = both(three_tasks())
    drawn, expected = (
        [image.get_array() for axis in one.plot().axes for image in axis.images] for one in (summary, heatmap)
    )
    assert len(drawn) == len(expected) == 4
    for one, other in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_it_is_found_under_its_public_names():
    assert qkov.PairSummary is PairSummary
    assert qkov.load_pair_summary is load_pair_summary
    assert pair_summary.__all__ == ["PairSummary", "load_pair_summary"]
