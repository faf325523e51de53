"""Attention that does not repeat is refused where repetition is asked for; norms over a pass, where it has company."""

import copy

import pytest
import torch

import qkov
from qkov import reproducibility, strict
from qkov.errors import BatchError, OptionError
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


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("num_samples", [1, 2])
def test_norms_over_a_pass_are_refused_where_it_has_several_samples(tracked, num_samples):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3, track_running_stats=tracked))
    if tracked or num_samples == 1:
        strict.check_norms(model, num_samples)
        return
    with pytest.raises(BatchError, match=r"'1' \(BatchNorm1d\) normalises by .* all 2 samples .* micro_batch=1"):
        strict.check_norms(model, num_samples)


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_every_pass_asks_for_norms(micro_batch):
    model = build_model("llama")
    norm = torch.nn.BatchNorm1d(4, track_running_stats=False, dtype=torch.float64)
    model.model.embed_tokens = torch.nn.Sequential(model.model.embed_tokens, norm)
    options = {"micro_batch": micro_batch, "progress": False}
    collector = qkov.FisherCollector()
    if micro_batch:
        collector.collect_fisher(model, build_batch((4, 4)), "a", **options)
        return
    with pytest.raises(BatchError, match=r"'model.embed_tokens.1'"):
        collector.collect_fisher(model, build_batch((4, 4)), "a", **options)
