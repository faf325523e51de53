"""Samples longer than a table of positions are refused by id; other models and losses have no such end."""

import pytest
import torch

import qkov
from qkov import losses, position_tables
from qkov.errors import BatchError
from tests.builders import build_batch, build_model, collect


def check(family, batch, loss_fn=losses.causal_lm_loss):
    names = [f"s{row}" for row in range(len(batch["input_ids"]))]
    position_tables.check_positions(build_model(family), batch, names, loss_fn)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_sample_that_is_too_long_is_named(family, padding):
    check(family, build_batch((5, 32), padding=padding, width=40))
    with pytest.raises(
        BatchError, match=r"sample 's1' reaches position 32; .*(wpe|embed_positions)' holds 0 to 31. Cut"
    ):
        check(family, build_batch((5, 33), padding=padding, width=40))


def test_the_longest_that_passes_can_be_collected():
    for family in ("gpt2", "opt"):
        assert collect(build_model(family), build_batch((32,))).sample_ids("a") == (0,)


def test_positions_of_the_batch_count():
    batch = build_batch((5, 5))
    batch["position_ids"] = torch.arange(5).expand(2, 5) + torch.tensor([[28], [0]])
    with pytest.raises(BatchError, match="sample 's0' reaches position 32"):
        check("gpt2", batch)
    batch["position_ids"] = torch.arange(40, 45)[None]
    check("gpt2", batch)  # not one row per sample: left to the model


def test_rotary_positions_have_no_end():
    check("llama", build_batch((5, 60)))


def test_other_losses_see_to_their_own_positions():
    check("gpt2", build_batch((5, 60)), lambda model, batch: None)


def test_collecting_keeps_what_was_there():
    collector = qkov.FisherCollector()
    model = build_model("gpt2")
    collector.collect_fisher(model, build_batch((5, 6)), "a", progress=False)
    with pytest.raises(BatchError, match="sample 3 reaches position 32"):
        collector.collect_fisher(model, build_batch((5, 33)), "a", progress=False)
    assert collector.sample_ids("a") == (0, 1)
