"""The smallest models on which each fault shows. A whole set of checks on one of them takes about a second.

All sizes of one model differ, as far as its packing allows, so that a wrong axis or count cannot fit by luck; batch B
comes without labels, so that only the attention mask keeps its padding out of the loss.
"""

import functools

import torch

from qkov import checks

from .. import families, synthetic, tasks

_SHARED = {"num_layers": 1, "mlp_size": 6, "vocab_size": 11, "max_positions": 12}
_VOCABULARY = {"gpt2": families.VOCAB_SIZE}


def _own_model(**sizes):
    return synthetic.SyntheticLM(synthetic.SyntheticConfig(**(_SHARED | sizes))).eval()


_GROUPED = {
    "num_heads": 4, "num_kv_heads": 2, "head_dim": 2, "v_head_dim": 3, "hidden_size": 14, "bias": True, "rotary": True,
}  # fmt: skip
_EQUAL_WIDTHS = {"num_heads": 3, "num_kv_heads": 3, "head_dim": 3, "v_head_dim": 3, "hidden_size": 10}

BUILDERS = {
    # split projections, 4 query heads on 2 kv heads, d_v != d_k, hidden wider than the heads together, biases
    "grouped": functools.partial(_own_model, **_GROUPED),
    # the same in two layers
    "deep": functools.partial(_own_model, **(_GROUPED | {"num_layers": 2})),
    # all queries, then keys, then values, d_v = d_k: every exchange of blocks has the right shape; learned positions
    "equal widths": functools.partial(_own_model, packing="concatenated", **_EQUAL_WIDTHS),
    # query, key and value of each head in turn
    "interleaved": functools.partial(_own_model, packing="interleaved", **_EQUAL_WIDTHS),
    # weights stored (in, out)
    "transposed": functools.partial(_own_model, packing="concatenated", orientation="conv1d", **_EQUAL_WIDTHS),
    # tokens, not samples, along the first axis of the activations; in batch A as many tokens as samples
    "tokens first": functools.partial(_own_model, arrangement="tokens", **_GROUPED),
    # transformers' own: dropout, and positions counted from the left edge unless told
    "gpt2": functools.partial(families.build_family, "gpt2"),
}

_LENGTHS_A, _PROMPTS_A = (6, 4, 5, 7), (0, 0, 2, 0)
_LENGTHS_B = (5, 6, 4)
_LENGTHS_EQUAL = (4, 3, 4, 3)


@functools.cache
def _references(_name):
    """Reference gradients by state of the weights, kept for every case of this name: no fault can reach them."""
    return {}


def build_case(name):
    """Build a case anew, its reference gradients taken over from earlier builds in this process."""
    vocabulary = _VOCABULARY.get(name, _SHARED["vocab_size"])
    lengths_a = _LENGTHS_EQUAL if name == "tokens first" else _LENGTHS_A
    batch_a = _batch(lengths_a, vocabulary, seed=1, prompts=_PROMPTS_A)
    batch_b = _batch(_LENGTHS_B, vocabulary, seed=2)
    del batch_b["labels"]
    twin = synthetic.gqa_twin if name in ("grouped", "deep", "tokens first") else None
    case = checks.Case(name, BUILDERS[name](), batch_a, batch_b, None, twin, _references=_references(name))
    for task in ("a", "b"):
        case.reference(task)
    return case


def _batch(lengths, vocabulary, *, seed, prompts=None):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(2, vocabulary, (length,), generator=generator).tolist() for length in lengths]
    return tasks.pad_rows(rows, pad_id=0, prompts=prompts)
