"""Samples without a finite gradient: named with parameter and count, or left out where that is asked for, and listed."""

import warnings

import pytest
import torch

import qkov
from qkov import losses, non_finite, passes
from qkov.errors import NonFiniteError, OptionError, SkippedSamplesWarning, UnknownTaskError
from tests.builders import build_batch, build_model
from validation import synthetic

IDS = ["s0", "s1", "s2", "s3", "s4"]


@pytest.fixture(scope="module")
def model():
    return build_model("llama")


def loss_without(*bad, value=float("nan")):
    """A loss whose gradient is ``value`` at samples that begin with one of the tokens ``bad``; the loss itself is finite."""

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx, states):
            return states.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * value

    def spoiled(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        first = batch["input_ids"][:, 0]
        return torch.stack([
            Spoil.apply(one) if int(token) in bad else one for one, token in zip(found, first, strict=True)
        ]), tokens  # fmt: skip

    return spoiled


def numbered(count=5):
    batch = build_batch((4,) * count)
    batch["input_ids"][:, 0] = torch.arange(1, count + 1)
    return batch


def collect(collector, model, *bad, ids=IDS, **options):
    options = {"sample_ids": ids, "progress": False, "non_finite": "skip"} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedSamplesWarning)
        collector.collect_fisher(model, numbered(len(ids)), "math", loss_fn=loss_without(*bad), **options)


def test_error_names_sample_parameter_and_count(model):
    with pytest.raises(
        NonFiniteError, match=r"sample 's2' has .* 'model.layers.0.self_attn.q_proj.weight': (\d+) of 576 "
    ):
        collect(qkov.FisherCollector(), model, 3, non_finite="error")


def test_count_is_that_of_the_entries():
    inputs, deltas = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0], [float("inf")]])
    message = str(non_finite.gradient_error("s", "q", inputs, deltas))  # inf * 3 = inf, inf * 0 = NaN
    assert "'q.weight': 2 of 2 entries" in message
    inputs = torch.tensor([[1.0, float("nan")]])
    assert "'q.weight': 1 of 2 entries" in str(non_finite.gradient_error("s", "q", inputs, torch.ones(1, 1)))


def test_skipping_is_not_the_default(model):
    with pytest.raises(NonFiniteError):
        qkov.FisherCollector().collect_fisher(
            model, numbered(), "math", loss_fn=loss_without(3), sample_ids=IDS, progress=False
        )


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3])
def test_samples_that_fail_are_left_out_and_listed(model, micro_batch):
    collector = qkov.FisherCollector()
    collect(collector, model, 2, 5, micro_batch=micro_batch)
    assert collector.sample_ids("math") == ("s0", "s2", "s3")
    assert list(collector.skipped("math")) == ["s1", "s4"]
    assert all(f"sample {name!r} has a NaN" in reason for name, reason in collector.skipped("math").items())


def test_the_others_are_what_they_are_without_them(model):
    found, expected = qkov.FisherCollector(), qkov.FisherCollector()
    collect(found, model, 2, 5)
    collect(expected, model)
    for name in found.sample_ids("math"):
        grads, wanted = (one.get_sample_gradients("math", name) for one in (found, expected))
        for parameter in wanted:
            torch.testing.assert_close(grads[parameter], wanted[parameter], rtol=1e-10, atol=1e-13)


def test_passes_after_a_failed_one_are_whole_again(model, monkeypatch):
    sizes = []
    original = passes.gradients.collect_factors

    def watched(model, batch, *rest):
        sizes.append(len(batch["input_ids"]))
        return original(model, batch, *rest)

    monkeypatch.setattr(passes.gradients, "collect_factors", watched)
    collect(qkov.FisherCollector(), model, 1, micro_batch=2)
    assert sizes == [2, 1, 1, 2, 1]


def test_a_warning_names_them_once(model):
    collector = qkov.FisherCollector()
    options = {"sample_ids": IDS, "progress": False, "non_finite": "skip", "loss_fn": loss_without(3)}
    with pytest.warns(SkippedSamplesWarning, match=r"task 'math': 1 sample was left out .*: 's2'\. collector.skipped"):
        collector.collect_fisher(model, numbered(), "math", **options)
    collector.collect_fisher(model, numbered(), "math", **options)  # known to fail: tried again, not warned of again
    assert list(collector.skipped("math")) == ["s2"]


def test_the_warning_points_at_the_call(model):
    with pytest.warns(SkippedSamplesWarning) as warned:
        qkov.FisherCollector().collect_fisher(
            model, numbered(), "math", loss_fn=loss_without(3), non_finite="skip", progress=False
        )
    assert warned[0].filename == __file__


def test_a_warning_comes_also_where_the_call_fails_later(model):
    collector, empty = qkov.FisherCollector(), numbered(2)
    empty["labels"] = torch.full_like(empty["input_ids"], losses.IGNORED)
    with (
        pytest.warns(SkippedSamplesWarning, match="'s2'"),
        pytest.raises(qkov.errors.BatchError, match="no predicted token"),
    ):
        collector.collect_fisher(
            model, [numbered(), empty], "math", loss_fn=loss_without(3), sample_ids=[*IDS, "t0", "t1"],
            non_finite="skip", progress=False,
        )  # fmt: skip
    assert list(collector.skipped("math")) == ["s2"]


def test_infinite_losses_are_left_out_too(model):
    def infinite(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        return found / (batch["input_ids"][:, 0] != 2), tokens

    collector = qkov.FisherCollector()
    with pytest.warns(SkippedSamplesWarning):
        collector.collect_fisher(
            model, numbered(), "math", loss_fn=infinite, sample_ids=IDS, non_finite="skip", progress=False
        )
    assert "has loss inf" in collector.skipped("math")["s1"]


def test_a_sample_that_succeeds_later_is_no_longer_listed(model):
    bad = [3]

    def changing(model, batch):
        return loss_without(*bad)(model, batch)

    collector = qkov.FisherCollector()
    options = {"sample_ids": IDS, "progress": False, "non_finite": "skip", "loss_fn": changing}
    with pytest.warns(SkippedSamplesWarning):
        collector.collect_fisher(model, numbered(), "math", **options)
    bad.clear()
    collector.collect_fisher(model, numbered(), "math", **options)
    assert collector.skipped("math") == {}
    assert collector.sample_ids("math") == ("s0", "s1", "s3", "s4", "s2")


def test_numbers_of_skipped_samples_are_not_given_again(model):
    collector = qkov.FisherCollector()
    collect(collector, model, 5, sample_ids=None)
    collect(collector, model, sample_ids=None)
    assert collector.sample_ids("math") == (0, 1, 2, 3, 5, 6, 7, 8, 9)
    assert list(collector.skipped("math")) == [4]


def test_results_say_how_many_were_left_out(model):
    collector = qkov.FisherCollector()
    collect(collector, model, 2, 5)
    collector.collect_fisher(model, numbered(), "code", progress=False)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    assert metric.compute_heatmap("math", "code", progress=False).attributes["num_skipped"] == {"math": 2, "code": 0}
    assert "num_skipped" not in metric.compute_heatmap("code", "code", progress=False).attributes


def test_samples_that_lie_elsewhere_than_along_the_first_axis_are_left_out_too():
    joined = synthetic.SyntheticLM(synthetic.SyntheticConfig(arrangement="joined")).eval()
    collector = qkov.FisherCollector()
    collect(collector, joined, 2)
    assert collector.sample_ids("math") == ("s0", "s2", "s3", "s4")
    assert list(collector.skipped("math")) == ["s1"]


def test_when_all_fail_the_task_is_empty(model):
    collector = qkov.FisherCollector()
    collect(collector, model, 1, 2, 3, 4, 5)
    assert collector.sample_ids("math") == ()
    assert len(collector.skipped("math")) == 5


def test_other_errors_are_not_skipped(model):
    batch = numbered()
    batch["labels"] = torch.full_like(batch["input_ids"], losses.IGNORED)
    with pytest.raises(qkov.errors.BatchError):
        qkov.FisherCollector().collect_fisher(model, batch, "math", non_finite="skip", progress=False)


def test_option_without_meaning_is_refused(model):
    with pytest.raises(OptionError, match="non_finite='ignore' is not known; expected one of 'error', 'skip'"):
        qkov.FisherCollector().collect_fisher(model, numbered(), "math", non_finite="ignore", progress=False)


def test_skipped_of_an_unknown_task_is_refused():
    with pytest.raises(UnknownTaskError):
        qkov.FisherCollector().skipped("math")
