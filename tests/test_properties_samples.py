"""Properties of samples: a digest knows a sample again whatever its padding and neighbours, and ids never mix."""

import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st

from qkov import samples
from validation import strategies

from .properties import holds, noticing

TOKENS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=4)


def padded(rows, *, side, width, pad_id, labelled=False):
    """A batch of rows of tokens, padded to a width; token 0 is real where it stands in a row."""
    width = max(width, max(map(len, rows)))
    ids, mask = (torch.full((len(rows), width), fill) for fill in (pad_id, 0))
    for row, tokens in enumerate(rows):
        place = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
        ids[row, place], mask[row, place] = torch.tensor(tokens), 1
    return {"input_ids": ids, "attention_mask": mask} | ({"labels": ids.where(mask > 0, -100)} if labelled else {})


def plain(function):
    """A wrong function in place of a right one."""
    return lambda _original: function


@holds(
    {
        "padding counts": (
            "samples.row_digest",
            lambda original: (
                lambda batch, row, name: original(
                    {key: value for key, value in batch.items() if key != "attention_mask"}, row, name
                )
            ),
        ),
        "real tokens by the pad id": (
            "samples.row_digest",
            lambda original: (
                lambda batch, row, name: original(
                    batch | {"attention_mask": (batch["input_ids"] != batch["input_ids"][row, -1]).long()}, row, name
                )
            ),
        ),
        "neighbours count": (
            "samples.row_digest",
            lambda original: lambda batch, row, name: original(batch, row, f"{name}{batch['input_ids'].sum()}"),
        ),
    },
    rows=TOKENS,
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sides=st.tuples(*[st.sampled_from(("left", "right"))] * 2),
    pads=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    order=st.randoms(use_true_random=False),
    labelled=st.booleans(),
)
def test_digest_does_not_know_padding_or_neighbours(rows, widths, sides, pads, order, labelled):
    one, other = (
        padded(chosen, side=side, width=width, pad_id=pad, labelled=labelled)
        for chosen, side, width, pad in zip((rows, rows[::-1]), sides, widths, pads, strict=True)
    )
    for row in range(len(rows)):
        assert samples.row_digest(one, row, "loss") == samples.row_digest(other, len(rows) - 1 - row, "loss")
    places = list(range(len(rows)))
    order.shuffle(places)
    shuffled = samples.select_rows(one, torch.tensor(places), "cpu")
    for new, old in enumerate(places):
        assert samples.row_digest(shuffled, new, "loss") == samples.row_digest(one, old, "loss")


@holds(
    {
        "only the tokens": (
            "samples.row_digest",
            lambda original: (
                lambda batch, row, name: original(
                    {key: value for key, value in batch.items() if key != "labels"}, row, name
                )
            ),
        ),
        "only the first token": (
            "samples.tensor_digest",
            lambda original: lambda *tensors: original(*[t[:1] for t in tensors]),
        ),
        "a bag of tokens": (
            "samples.tensor_digest",
            lambda original: lambda *tensors: original(*[t.sort()[0] for t in tensors]),
        ),
        "without its type": (
            "samples.tensor_digest",
            lambda original: lambda *tensors: original(*[t.long() for t in tensors]),
        ),
    },
    tokens=st.lists(st.integers(0, 9), min_size=2, max_size=6),
    place=st.integers(0, 5),
    change=st.integers(1, 9),
)
def test_digest_sees_every_token_label_type_and_loss(tokens, place, change):
    batch = padded([tokens], side="right", width=8, pad_id=0, labelled=True)
    place %= len(tokens)
    changed = {name: value.clone() for name, value in batch.items()}
    changed["input_ids"][0, place] += change
    masked = {name: value.clone() for name, value in batch.items()}
    masked["labels"][0, place] = -100
    shorter = padded([tokens[:-1]], side="right", width=8, pad_id=0, labelled=True)
    typed = batch | {"input_ids": batch["input_ids"].int()}
    swapped = {name: value.clone() for name, value in batch.items()}
    swapped["input_ids"][0, :2] = swapped["input_ids"][0, :2].flip(0)
    others = [(one, "loss") for one in (changed, masked, shorter, typed)] + [(batch, "another loss")]
    found = [samples.row_digest(one, 0, name) for one, name in others]
    base = samples.row_digest(batch, 0, "loss")
    assert base not in found
    assert (samples.row_digest(swapped, 0, "loss") == base) == (tokens[0] == tokens[1])


@holds(
    {
        "bytes as they lie": (
            "samples.tensor_digest",
            lambda original: lambda *tensors: original(*[torch.tensor(t.stride()) + t.sum() for t in tensors]),
        ),
    },
    values=st.sampled_from((torch.float32, torch.float64, torch.bfloat16)).flatmap(
        lambda dtype: strategies.tensors((3, 2), dtype, strides=False)
    ),
    arrangement=st.sampled_from(("transposed", "part", "every other")),
    row=st.integers(0, 2),
)
@example(values=torch.ones(3, 1), arrangement="every other", row=1)
def test_digest_does_not_know_strides(values, arrangement, row):
    batch = {"pixel_values": values}
    other = {"pixel_values": strategies.arranged(values, arrangement)}
    assert samples.row_digest(batch, row, "loss") == samples.row_digest(other, row, "loss")
    negated = {"pixel_values": -values}  # zeros of the other sign are other inputs
    assert samples.row_digest(batch, row, "loss") != samples.row_digest(negated, row, "loss")


@holds(
    {
        "counted from 0": (
            "samples.assign_ids",
            lambda original: lambda task, known, number, ids: original(task, {}, number, ids),
        ),
        "the number of the known": (
            "samples.assign_ids",
            lambda original: (
                lambda task, known, number, ids: (
                    list(range(len(known), len(known) + number)) if ids is None else original(task, known, number, ids)
                )
            ),
        ),
    },
    known=st.lists(st.integers(-5, 2**70), unique=True, max_size=4),
    number=st.integers(0, 5),
)
def test_new_ids_follow_the_largest_and_are_new(known, number):
    found = samples.assign_ids("a", dict.fromkeys(known), number, None)
    assert len(found) == number
    assert not set(found) & set(known)
    assert found == sorted(set(found))
    assert all(type(one) is int for one in found)
    assert not found or found[0] == (max(known) + 1 if known else 0)
    again = samples.assign_ids("a", dict.fromkeys([*known, *found]), number, None)
    assert not set(again) & set(found)


@holds(
    {
        "columns": (
            "samples.select_rows",
            lambda original: (
                lambda batch, rows, device: {
                    name: value[: len(rows)] if isinstance(value, torch.Tensor) and value.ndim else value
                    for name, value in batch.items()
                }
            ),
        ),
        "sizes of the first tensor": (
            "samples.batch_size",
            plain(
                lambda batch: next(
                    (len(value) for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim), 0
                )
            ),
        ),
    },
    number=st.integers(1, 5),
    rows=st.lists(st.integers(0, 4), max_size=5),
    more=st.integers(0, 2),
)
def test_rows_of_a_batch_are_selected_together(number, rows, more):
    rows = [row % number for row in rows]
    ids = torch.arange(3 * number).reshape(number, 3)
    batch = {"input_ids": ids, "weights": ids.double() / 7, "scale": torch.tensor(2.0), "name": "x"}
    assert samples.batch_size(batch) == number
    chosen = samples.select_rows(batch, torch.tensor(rows, dtype=torch.long), "cpu")
    assert chosen["input_ids"].tolist() == [[3 * row, 3 * row + 1, 3 * row + 2] for row in rows]
    assert torch.equal(chosen["weights"], chosen["input_ids"].double() / 7)
    assert (chosen["scale"].item(), chosen["name"]) == (2.0, "x")
    if more:
        longer = batch | {"labels": torch.zeros(number + more)}
        with pytest.raises(samples.BatchError) as caught:
            samples.batch_size(longer)
        assert str(number + more) in str(caught.value)


test_wrong_implementation_is_noticed = noticing(__name__)
