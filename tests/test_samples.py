"""Batches taken apart: sizes, rows, digests that ignore padding, and ids that cannot be mixed up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkov import samples
from qkov.errors import BatchError, SampleIdError
from tests.builders import VOCABULARY, build_batch, build_model
from validation import tiny_models

# Sizes and rows


def test_batch_size_is_the_shared_first_axis():
    assert (
        samples.batch_size({"input_ids": torch.ones(3, 5), "labels": torch.ones(3, 2), "scale": torch.tensor(2.0)}) == 3
    )


def test_batch_may_hold_no_samples():
    assert samples.batch_size({"input_ids": torch.ones(0, 5)}) == 0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.ones(2, 3), "a batch is a Tensor; expected a mapping"),
        (None, "a batch is a NoneType"),
        ({}, "holds no tensor with a sample axis"),
        ({"input_ids": [[1, 2]], "scale": torch.tensor(1.0)}, r"entries \['input_ids', 'scale'\] holds no tensor"),
        ({"input_ids": torch.ones(2, 3), "labels": torch.ones(3, 3)}, "disagree on the number of samples"),
    ],
)
def test_batch_of_another_form_is_refused(batch, message):
    with pytest.raises(BatchError, match=message):
        samples.batch_size(batch)


def test_rows_are_selected_and_entries_without_samples_passed_along():
    batch = {"ids": torch.arange(6).reshape(3, 2), "scale": torch.tensor(2.0), "name": "task", "flag": None}
    part = samples.select_rows(batch, [2, 0], "cpu")
    assert part["ids"].tolist() == [[4, 5], [0, 1]]
    assert (part["scale"].item(), part["name"], part["flag"]) == (2.0, "task", None)


def test_rows_of_an_inference_tensor_can_enter_a_graph():
    with torch.inference_mode():
        batch = {"inputs_embeds": torch.ones(2, 3), "scale": torch.tensor(2.0)}
        part = samples.select_rows(batch, [0], "cpu")
    assert [value.is_inference() for value in part.values()] == [False, False]


# Digests


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("width", [6, 9])
def test_digest_ignores_padding(padding, width):
    expected = [samples.row_digest(build_batch((5, 6)), row, "loss") for row in range(2)]
    batch = build_batch((5, 6), padding=padding, width=width)
    assert [samples.row_digest(batch, row, "loss") for row in range(2)] == expected
    assert expected[0] != expected[1]


def test_digest_of_a_full_mask_is_that_of_no_mask():
    batch = build_batch((5, 5))
    bare = {"input_ids": batch["input_ids"]}
    assert samples.row_digest(batch, 1, "loss") == samples.row_digest(bare, 1, "loss")


def test_digest_sees_each_entry():
    batch = build_batch((5, 5)) | {"labels": build_batch((5, 5))["input_ids"]}
    changed = {name: value.clone() for name, value in batch.items()}
    changed["labels"][0, 2] = -100
    assert samples.row_digest(changed, 0, "loss") != samples.row_digest(batch, 0, "loss")
    assert samples.row_digest(changed, 1, "loss") == samples.row_digest(batch, 1, "loss")


def test_digest_takes_masks_of_other_shapes_and_one_label_per_sample():
    batch = {
        "input_ids": torch.ones(2, 3, dtype=torch.long),
        "attention_mask": torch.ones(2, 1, 3, 3),
        "labels": torch.tensor([0, 1]),
    }
    assert samples.row_digest(batch, 0, "loss") != samples.row_digest(batch, 1, "loss")
    blind = {**batch, "attention_mask": torch.zeros(2, 1, 3, 3)}
    assert samples.row_digest(blind, 0, "loss") != samples.row_digest(batch, 0, "loss")


# Tokens


@pytest.mark.parametrize("token", [-1, VOCABULARY, 50_000])
def test_token_that_the_model_does_not_embed_is_refused(token):
    batch = build_batch((4, 4))
    batch["input_ids"][1, 2] = token
    with pytest.raises(
        BatchError, match=rf"sample 's1' has a token .* the model embeds 0 to {VOCABULARY - 1}\. .*tokenizer"
    ):
        samples.check_tokens(build_model("gpt2"), batch, ["s0", "s1"])


@pytest.mark.parametrize(
    "batch",
    [{"inputs_embeds": torch.ones(1, 2, 24)}, {"input_ids": torch.empty(0, 4)}, {"input_ids": torch.tensor([[22]])}],
)
def test_other_batches_pass_the_token_check(batch):
    assert samples.check_tokens(build_model("gpt2"), batch, ["s0", "s1"]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_tokens_that_are_no_integers_are_refused(dtype):
    with pytest.raises(BatchError, match=f"input_ids are of {dtype}; expected integers"):
        samples.check_tokens(build_model("gpt2"), {"input_ids": torch.ones(1, 3, dtype=dtype)}, ["s0"])


def test_sample_without_any_token_is_named():
    with pytest.raises(BatchError, match=r"sample 's0' has no token.* Remove it"):
        samples.check_tokens(build_model("gpt2"), {"input_ids": torch.ones(2, 0, dtype=torch.long)}, ["s0", "s1"])


def test_model_without_token_embeddings_passes_the_token_check():
    batch = {"input_ids": torch.tensor([[10**6]])}
    assert samples.check_tokens(torch.nn.Linear(2, 2), batch, ["s0"]) is None
    # CANINE hashes its characters: no single table embeds them, and transformers says so by raising.
    hashed = tiny_models.Architecture("canine", "CanineModel", sizes={"hidden_size": 24, "num_attention_heads": 6})
    model, _ = tiny_models.build(hashed)
    with pytest.raises(NotImplementedError):
        model.get_input_embeddings()
    assert samples.check_tokens(model, batch, ["s0"]) is None
    with pytest.raises(BatchError, match="the model embeds 0 to"):
        samples.check_tokens(build_model("llama"), batch, ["s0"])


# Ids


@pytest.mark.parametrize(("known", "expected"), [({}, [0, 1]), ({0: None, 7: None}, [8, 9])])
def test_default_ids_are_the_next_integers(known, expected):
    assert samples.assign_ids("a", known, 2, None) == expected


@pytest.mark.parametrize("ids", [[4, 2], ["x", "y"], torch.tensor([4, 2]), "xy", (one for one in (4, 2))])
def test_given_ids_are_kept_in_order(ids):
    found = samples.assign_ids("a", {}, 2, ids)
    assert found in ([4, 2], ["x", "y"])
    assert {type(one) for one in found} <= {int, str}


@given(ids=st.lists(st.integers(), unique=True) | st.lists(st.text(), unique=True))
def test_any_unique_ids_of_one_type_are_accepted(ids):
    assert samples.assign_ids("a", {}, len(ids), ids) == ids


@pytest.mark.parametrize(
    ("known", "ids", "message"),
    [
        ({}, [1], "1 sample_ids for 2 samples"),
        ({}, [1, 2, 3], "3 sample_ids for 2 samples"),
        ({}, [1, "b"], "ids of type int, str; expected all int or all str"),
        ({}, [1.0, 2.0], "ids of type float"),
        ({}, [True, False], "ids of type bool"),
        ({}, [None, None], "ids of type NoneType"),
        ({"x": None}, [1, 2], "ids of type int, str"),
        ({1: None}, ["x", "y"], "ids of type int, str"),
        ({}, [5, 5], r"sample ids \[5\] occur more than once in one call"),
        ({"x": None}, None, "has string ids; pass sample_ids"),
    ],
)
def test_ids_that_could_be_mixed_up_are_refused(known, ids, message):
    with pytest.raises(SampleIdError, match=message):
        samples.assign_ids("a", known, 2, ids)


def test_digest_knows_the_loss():
    batch = build_batch((5, 6))
    assert samples.row_digest(batch, 0, "one_loss") != samples.row_digest(batch, 0, "another_loss")
