"""Another model is refused, another environment is warned of, another tokenizer is refused where both are known."""

import copy

import pytest
import torch

import qkov
from qkov import errors, reproducibility, store_identity
from tests.builders import build_batch, build_model
from tests.stores import digest, fill, make_store


class Tokenizer:
    """As much of a tokenizer as is looked at."""

    def __init__(self, words, special=(0,)):
        self.words, self.all_special_ids = words, list(special)

    def get_vocab(self):
        return {word: number for number, word in enumerate(self.words)}

    def __call__(self, text):
        return {"input_ids": [len(part) % len(self.words) for part in text.split()]}


def refused(path, model, shown):
    before = digest(path)
    collector = qkov.FisherCollector(store=path)
    with pytest.raises(errors.ModelChangedError, match=shown) as raised:
        collector.collect_fisher(model, build_batch((4,)), "c", progress=False)
    collector.close()
    assert raised.value.exit_status == 4
    assert digest(path) == before


def test_other_weights_are_refused(tmp_path):
    folder = make_store(tmp_path / "s")
    refused(
        folder,
        build_model("llama", dtype=torch.float32, seed=1),
        r"its configuration or weights differ.*Load the model",
    )


def test_another_precision_is_refused(tmp_path):
    folder = make_store(tmp_path / "s")
    refused(folder, build_model("llama", dtype=torch.bfloat16), r"dtypes is \['bfloat16'\], was \['float32'\]")


def test_another_class_is_refused(tmp_path):
    folder = make_store(tmp_path / "s")
    refused(folder, build_model("qwen2", dtype=torch.float32), r"class is 'Qwen2ForCausalLM', was 'LlamaForCausalLM'")


def test_another_implementation_of_attention_is_warned_of(tmp_path):
    folder = make_store(tmp_path / "s")
    collector = qkov.FisherCollector(store=folder)
    collector.unseal()
    eager = build_model("llama", dtype=torch.float32, attention="eager")
    with pytest.warns(errors.StoreWarning, match="attention_implementation 'eager', was 'sdpa'"):
        collector.collect_fisher(eager, build_batch((4,)), "c", progress=False)
    collector.close()


@pytest.mark.parametrize("name", store_identity.SOFT)
def test_every_soft_field_is_compared(name):
    stored = dict.fromkeys(store_identity.SOFT, "x")
    with pytest.warns(errors.StoreWarning, match=f"{name} 'y', was 'x'"):
        store_identity.warn_of_environment(stored, {**stored, name: "y"}, "s")
    store_identity.warn_of_environment(stored, copy.copy(stored), "s")


def test_another_tokenizer_is_refused(tmp_path):
    with qkov.FisherCollector(store=tmp_path / "s", tokenizer=Tokenizer("ab")) as collector:
        fill(collector)
    qkov.FisherCollector(store=tmp_path / "s", tokenizer=Tokenizer("ab")).close()
    qkov.FisherCollector(store=tmp_path / "s").close()  # not named: not compared
    with pytest.raises(errors.StoreMismatchError, match="tokenizer"):
        qkov.FisherCollector(store=tmp_path / "s", tokenizer=Tokenizer("ba"))


def test_tokenizers_differ_by_vocabulary_special_tokens_and_cuts():
    digests = {
        reproducibility.tokenizer_fingerprint(one)
        for one in (Tokenizer("ab"), Tokenizer("ab"), Tokenizer("abc"), Tokenizer("ab", (1,)), Tokenizer("ba"))
    }
    assert len(digests) == 4
