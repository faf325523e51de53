"""Which tokens enter the causal loss, what is passed to the model, and that the loss is their sum."""

import math

import pytest
import torch

from qkov import losses
from qkov.errors import BatchError
from tests.builders import PADDING_ID, VOCABULARY, build_batch, build_model

LEFT = {
    "input_ids": torch.tensor([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
}


def loss_by_loop(model, batch, row):
    """One sample alone, without its padding, token by token."""
    real = batch["attention_mask"][row].bool()
    ids = batch["input_ids"][row][real]
    labels = batch.get("labels", batch["input_ids"])[row][real]
    with torch.no_grad():
        log_probabilities = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    used = [t for t in range(1, len(ids)) if labels[t] != losses.IGNORED]
    return -math.fsum(float(log_probabilities[t - 1, labels[t]]) for t in used), len(used)


# Which tokens


def test_every_token_but_the_first_is_predicted():
    assert losses.target_labels({"input_ids": torch.tensor([[3, 4, 5]])}).tolist() == [[-100, 4, 5]]


def test_first_real_token_after_padding_is_not_predicted():
    assert losses.target_labels(LEFT).tolist() == [[-100, -100, -100, 6, 7], [-100, 5, 6, 7, 8]]


def test_padding_on_the_right_is_not_predicted():
    batch = {"input_ids": torch.tensor([[5, 6, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0, 0]])}
    assert losses.target_labels(batch).tolist() == [[-100, 6, -100, -100]]


def test_labels_at_padding_do_not_count():
    labels = torch.full((2, 5), 9)
    assert losses.target_labels({**LEFT, "labels": labels}).tolist() == [[-100, -100, -100, 9, 9], [-100, 9, 9, 9, 9]]


def test_label_mask_is_kept():
    labels = torch.tensor([[-100, -100, 5, -100, 7], [4, 5, -100, 7, -100]])
    assert losses.target_labels({**LEFT, "labels": labels}).tolist() == [
        [-100, -100, -100, -100, 7],
        [-100, 5, -100, 7, -100],
    ]


def test_real_token_equal_to_the_padding_id_counts():
    ids = torch.tensor([[5, PADDING_ID, 6, PADDING_ID]])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    assert losses.target_labels(batch).tolist() == [[-100, PADDING_ID, 6, -100]]


def test_labels_of_the_caller_are_not_changed():
    labels = torch.tensor([[3, 4, 5]])
    losses.target_labels({"input_ids": labels, "labels": labels})
    assert labels.tolist() == [[3, 4, 5]]


def test_real_tokens_without_a_mask_are_all():
    assert losses.real_tokens({"inputs_embeds": torch.ones(2, 3, 4)}).tolist() == [[True] * 3] * 2


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_mask_of_any_dtype_is_understood(dtype):
    batch = {**LEFT, "attention_mask": LEFT["attention_mask"].to(dtype)}
    assert losses.real_tokens(batch).tolist() == LEFT["attention_mask"].bool().tolist()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"input_ids": torch.ones(5, dtype=torch.long)}, r"input_ids has shape \(5,\); expected \[N, T\]"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, r"shape \(2, 0\).* T is at least 1"),
        ({"inputs_embeds": torch.ones(2, 5)}, r"inputs_embeds has shape \(2, 5\); expected \[N, T, hidden\]"),
        ({"pixels": torch.ones(2, 5)}, r"entries \['pixels'\]; expected 'input_ids' or 'inputs_embeds'"),
        ({"input_ids": torch.ones(2, 5), "attention_mask": torch.ones(2, 4)}, r"attention_mask has shape \(2, 4\)"),
        ({"input_ids": torch.ones(2, 5), "attention_mask": torch.ones(2, 1, 5, 5)}, r"For masks of another form"),
        ({"input_ids": torch.ones(2, 5), "labels": torch.ones(2, 4)}, r"labels have shape \(2, 4\); expected \(2, 5\)"),
        ({"inputs_embeds": torch.ones(2, 5, 3)}, r"inputs_embeds has no labels; pass 'labels'"),
    ],
)
def test_batch_of_another_form_is_refused(batch, message):
    with pytest.raises(BatchError, match=message):
        losses.target_labels(batch)


# Positions


def test_positions_count_real_tokens_from_zero():
    assert losses.position_ids(LEFT).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


class Recorder(torch.nn.Module):
    """Answer like a causal model and remember the arguments."""

    def __init__(self):
        super().__init__()
        self.seen = None

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=True):
        self.seen = {"position_ids": position_ids, "use_cache": use_cache}
        return type("Output", (), {"logits": torch.zeros(*input_ids.shape, VOCABULARY, dtype=torch.bfloat16)})


class Wrapper(torch.nn.Module):
    """Pass keyword arguments on without naming them, as adapters and parallel wrappers do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **inputs):
        return self.inner(**inputs)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapper, lambda model: Wrapper(Wrapper(model))])
def test_positions_are_passed_where_the_model_takes_them(wrap):
    model = Recorder()
    losses.causal_lm_loss(wrap(model), LEFT)
    assert model.seen["position_ids"].tolist() == losses.position_ids(LEFT).tolist()
    assert model.seen["use_cache"] is False


def test_positions_of_the_batch_are_kept():
    model, own = Recorder(), torch.tensor([[7, 7, 7, 8, 9], [1, 2, 3, 4, 5]])
    losses.causal_lm_loss(model, {**LEFT, "position_ids": own})
    assert torch.equal(model.seen["position_ids"], own)


def test_no_positions_are_passed_to_a_model_without_them():
    class Plain(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, VOCABULARY)})

    loss, _ = losses.causal_lm_loss(Plain(), LEFT)
    assert loss.tolist() == pytest.approx([2 * math.log(VOCABULARY), 4 * math.log(VOCABULARY)])


def test_loss_is_at_least_float32():
    loss, _ = losses.causal_lm_loss(Recorder(), LEFT)
    assert loss.dtype == torch.float32


# The loss


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_loss_is_the_sum_over_the_tokens_of_each_sample(family, padding):
    model = build_model(family)
    batch = build_batch((5, 8, 3), padding=padding)
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][1, ::3] = losses.IGNORED
    with torch.no_grad():
        found, tokens = losses.causal_lm_loss(model, batch)
    expected = [loss_by_loop(model, batch, row) for row in range(3)]
    assert found.tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-12)
    assert tokens.tolist() == [count for _, count in expected]


@pytest.mark.parametrize("label", [-1, VOCABULARY, 10**9])
def test_label_outside_the_vocabulary_is_refused(label):
    labels = LEFT["input_ids"].clone()
    labels[1, 3] = label
    with pytest.raises(BatchError, match=rf"labels range from .*{label}.* predicts 0 to {VOCABULARY - 1}"):
        losses.causal_lm_loss(Recorder(), {**LEFT, "labels": labels})


def test_label_outside_the_vocabulary_where_nothing_is_predicted_is_harmless():
    labels = LEFT["input_ids"].clone()
    labels[0, 0] = -1
    _, tokens = losses.causal_lm_loss(Recorder(), {**LEFT, "labels": labels})
    assert tokens.tolist() == [2, 4]


def test_labels_may_be_narrow_integers():
    batch = build_batch((4, 5))
    wide = losses.causal_lm_loss(build_model("llama"), batch)
    narrow = losses.causal_lm_loss(build_model("llama"), {**batch, "input_ids": batch["input_ids"].int()})
    assert torch.equal(wide[0], narrow[0])
