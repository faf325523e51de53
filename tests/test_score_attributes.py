"""The facts that a result holds on its scores: options, meaning, and what they were made of."""

import dataclasses

import pytest
import torch

import qkov
from qkov import errors, losses, meaning, score_attributes
from qkov.errors import EmptyTaskWarning
from tests.builders import build_batch, build_model
from tests.scored_tasks import metric_of, score, two_tasks


def before_mutants():
    """Make what tests share, and attributes have no part in, before mutants are judged one by one."""
    two_tasks("llama")


def test_attributes_say_what_was_computed():
    attributes = score(two_tasks("llama")[0], variant="signed", fisher_pool="pooled", epsilon=0.0).attributes
    expected = {
        "variant": "signed", "fisher_pool": "pooled", "fisher_source": "contributions", "aggregate": "mean",
        "include_bias": False, "epsilon": 0.0, "ridge_lambda": None, "ema_decay": 0.99, "valid": True,
        "num_fisher_samples_a": 3, "num_fisher_samples_b": 2, "conflict_order": "ascending", "average_caveat": "",
        "computation_device": "cpu", "damping_rule": "max(F, epsilon) + ridge_lambda",
    }  # fmt: skip
    assert {name: attributes[name] for name in expected} == expected
    assert attributes["versions"]["torch"] == torch.__version__
    assert len(attributes["model_fingerprint"]) == 64


def test_attributes_hold_every_option_but_those_of_the_machine():
    collector, _ = two_tasks("llama")
    metric = metric_of(collector, aggregate="sum", normalize_gj="per_token")
    attributes = metric.compute_heatmap("a", "b", progress=False).attributes
    options = dataclasses.asdict(metric.options)
    assert "device" not in attributes
    assert {name: attributes[name] for name in options if name not in score_attributes.NOT_TOLD} == {
        name: value for name, value in options.items() if name not in score_attributes.NOT_TOLD
    }
    assert sorted(attributes["versions"]) == ["qkov", "torch"]
    described = meaning.describe_scores(
        "unsigned", "A", aggregate="sum", normalize_gj="per_token", fisher_source="contributions", own_fisher=True
    )
    assert set(attributes) - set(options) - set(described) == {
        "damping_rule", "num_fisher_samples_a", "num_fisher_samples_b", "computation_device", "model_fingerprint", "valid",
        "versions",
    }  # fmt: skip
    assert attributes["model_fingerprint"] == collector.model_fingerprint
    assert "fisher_tasks" not in attributes
    assert "slice_note" not in attributes


@pytest.mark.parametrize(
    "options",
    [
        {"aggregate": "sum"},
        {"normalize_gj": "per_token"},
        {"fisher_source": "head"},
        {"fisher_pool": "B"},
        {"variant": "dot"},
    ],
)
def test_attributes_mean_what_the_options_mean(options):
    given = {"aggregate": "mean", "normalize_gj": "none", "fisher_source": "contributions"} | options
    variant, pool = given.pop("variant", "unsigned"), given.pop("fisher_pool", "A")
    expected = meaning.describe_scores(variant, pool, **given, own_fisher=True)
    plain = meaning.describe_scores(
        "unsigned", "A", aggregate="mean", normalize_gj="none", fisher_source="contributions", own_fisher=True
    )
    assert expected != plain
    attributes = score(two_tasks("llama")[0], **options).attributes
    assert {name: attributes[name] for name in expected} == expected


def test_attributes_warn_of_averages_only_where_they_say_nothing_on_a():
    collector, _ = two_tasks("llama")
    assert "carries no information on task A" in score(collector).attributes["average_caveat"]
    assert score(collector, fisher_pool="pooled").attributes["average_caveat"] == ""
    assert score(collector).attributes["damping_rule"].startswith("F + ridge_lambda_rel")


def test_attributes_count_the_samples_that_made_each_fisher():
    collector, _ = two_tasks("llama")

    def counts(tasks, **options):
        attributes = score(collector, *tasks, **options).attributes
        return attributes["num_fisher_samples_a"], attributes["num_fisher_samples_b"], attributes["valid"]

    assert counts(("a", "b")) == (3, 2, True)
    assert counts(("a", "b"), fisher_tasks={"a": "b"}) == (2, 2, True)
    with pytest.warns(EmptyTaskWarning):
        assert counts(("a", "never")) == (3, 0, False)


def test_samples_that_were_left_out_are_counted():
    def failing(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        return found * torch.where(batch["input_ids"][:, 0] == bad, torch.nan, 1.0), tokens

    batch = build_batch((5, 4, 6))
    bad = int(batch["input_ids"][1, 0])
    batch["input_ids"][[0, 2], 0] = 1 if bad != 1 else 2
    collector, model = qkov.FisherCollector(), build_model("llama")
    with pytest.warns(errors.SkippedSamplesWarning):
        collector.collect_fisher(model, batch, "a", loss_fn=failing, non_finite="skip", progress=False)
    collector.collect_fisher(model, build_batch((4, 5)), "b", progress=False)
    assert score(collector).attributes["num_skipped"] == {"a": 1, "b": 0}
    assert "num_skipped" not in score(two_tasks("llama")[0]).attributes
