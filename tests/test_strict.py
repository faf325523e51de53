"""Attention that does not repeat is refused where repetition is asked for, and only there."""

import copy

import pytest
import torch

import qkov
from qkov import reproducibility, strict
from qkov.errors import OptionError

from tests.builders import build_batch, build_model


@pytest.fixture
def flashing():
    model = build_model("llama")
    attention = model.model.layers[1].self_attn
    attention.config = copy.deepcopy(attention.config)
    attention.config._attn_implementation = "flash_attention_2"
    return model


def test_flash_attention_is_refused_in_deterministic_mode(flashing):
    with (
        reproducibility.deterministic(),
        pytest.raises(
            OptionError, match=r"model.layers.1.self_attn' uses attn_implementation='flash_attention_2'.*'sdpa'"
        ),
    ):
        strict.check_attention(flashing)


def test_flash_attention_passes_otherwise(flashing):
    strict.check_attention(flashing)


def test_flash_attention_passes_with_the_kernel_that_repeats(flashing, monkeypatch):
    monkeypatch.setenv(strict.FLASH_SWITCH, "1")
    with reproducibility.deterministic():
        strict.check_attention(flashing)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_attention_passes_in_deterministic_mode(attention):
    with reproducibility.deterministic():
        strict.check_attention(build_model("llama", attention=attention))
        strict.check_attention(torch.nn.Linear(2, 2))


def into_a_collector(model, batch):
    qkov.FisherCollector().collect_fisher(model, batch, "a", progress=False)


def into_a_diagonal(model, batch):
    qkov.collect_fisher_diagonal(model, batch, "a", progress=False)


@pytest.mark.parametrize("collect", [into_a_collector, into_a_diagonal])
def test_every_collection_asks(flashing, collect):
    with reproducibility.deterministic(), pytest.raises(OptionError, match="flash_attention_2"):
        collect(flashing, build_batch((4, 4)))
