"""Losses that are not one finite number per sample are refused before any backward pass."""

import pytest
import torch

from qkov import losses
from qkov.errors import BatchError
from tests.builders import build_batch, build_model, collect


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda loss, tokens: loss.sum(), r"returned shape \(\); expected one loss per sample, shape \(3,\)"),
        (lambda loss, tokens: loss.mean(), r"do not average over the batch"),
        (lambda loss, tokens: loss[:2], r"returned shape \(2,\)"),
        (lambda loss, tokens: loss[:, None], r"returned shape \(3, 1\)"),
        (lambda loss, tokens: 1.5, r"returned a float"),
        (lambda loss, tokens: None, r"returned a NoneType"),
        (lambda loss, tokens: loss.tolist(), r"returned a list"),
        (lambda loss, tokens: (loss, tokens, loss), r"returned 3 values; expected losses \[N\], or"),
        (lambda loss, tokens: loss.detach(), r"do not depend on any projection"),
        (lambda loss, tokens: torch.ones(3), r"do not depend on any projection"),
        (lambda loss, tokens: (loss, tokens[:2]), r"token counts .*; expected 3 whole numbers"),
        (lambda loss, tokens: (loss, tokens + 0.5), r"token counts .*; expected 3 whole numbers"),
        (lambda loss, tokens: (loss, tokens / 0.0), r"token counts .*; expected 3 whole numbers"),
        (lambda loss, tokens: (loss, 4), r"token counts 4; expected 3 whole numbers"),
        (lambda loss, tokens: (loss, tokens * torch.tensor([1, 0, 1])), r"sample 1 has no predicted token"),
    ],
)
def test_loss_function_that_breaks_its_contract_is_refused(result, message):
    with pytest.raises(BatchError, match=message):
        collect(
            build_model("gpt2"),
            build_batch((4, 5, 6)),
            loss_fn=lambda model, batch: result(*losses.causal_lm_loss(model, batch)),
        )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_loss_function_that_switches_gradients_off_is_refused(context):
    with pytest.raises(BatchError, match="do not depend on any projection"):
        collect(build_model("gpt2"), build_batch((4, 5)), loss_fn=context()(losses.causal_lm_loss))


def test_token_counts_may_be_a_list():
    collector = collect(
        build_model("gpt2"),
        build_batch((4, 5)),
        loss_fn=lambda model, batch: (losses.causal_lm_loss(model, batch)[0], [7, 9]),
    )
    assert [one.num_tokens for one in collector.samples("a")] == [7, 9]


def test_loss_function_without_counts_counts_one():
    collector = collect(
        build_model("gpt2"), build_batch((4, 5)), loss_fn=lambda model, batch: losses.causal_lm_loss(model, batch)[0]
    )
    assert [one.num_tokens for one in collector.samples("a")] == [1, 1]
