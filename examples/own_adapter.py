"""How do I say where the heads are in an attention class that nobody knows, and how do I know that I said it right?

    python own_adapter.py

The attention here has one weight for all three projections, in an order of its own: keys, then queries, then values.
Shapes cannot tell that order from any other, so an unknown fused weight is refused, never guessed. `register_layout`
declares it for the class, and `prove_layout` makes experiments on the model: which weights still get a gradient when
all heads but one are closed, which heads move when a slice is changed, which blocks fall silent when one is zeroed.

It prints the refusal without a declaration, the refusal of a wrong one (the usual order: queries, keys, values; its
shapes fit), and the proof of the right one.
"""

from functools import partial
from types import SimpleNamespace

import torch

import qkov
from qkov.geometry import AttentionLayout, Projection
from qkov.locate import concatenated_layout


class FusedAttention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.width = heads, width
        self.kqv, self.out = torch.nn.Linear(width, 3 * width, bias=False), torch.nn.Linear(width, width, bias=False)

    def forward(self, hidden):
        k, q, v = self.kqv(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Model(torch.nn.Module):
    def __init__(self, width=16, heads=4, layers=2):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(256, width), torch.nn.Linear(width, 256)
        self.layers = torch.nn.ModuleList(FusedAttention(width, heads) for _ in range(layers))

    def forward(self, input_ids):
        hidden = self.embedding(input_ids)
        for attention in self.layers:
            hidden = hidden + attention(hidden)
        return SimpleNamespace(logits=self.head(hidden))  # like transformers, so the usual loss applies


def keys_first(module, name, config):
    """Place the heads of one module: where each starts among the rows of the fused weight, and how wide it is."""
    head_dim = module.width // module.heads
    # block, part, its weight, the axis that heads lie along, and where its first head starts
    places = (
        ("Q", "kqv", 0, "output", module.width),
        ("K", "kqv", 0, "output", 0),
        ("V", "kqv", 0, "output", 2 * module.width),
        ("O", "out", 1, "input", 0),
    )
    projections = tuple(
        Projection(
            block, f"{name}.{part}", f"{name}.{part}.weight", None, tuple(getattr(module, part).weight.shape), axis, side,
            tuple(first + head * head_dim for head in range(module.heads)), head_dim,
        )
        for block, part, axis, side, first in places
    )  # fmt: skip
    sizes = (module.heads, module.heads, head_dim, head_dim, module.width)
    return AttentionLayout(0, name, "concatenated", *sizes, projections)


def main():
    torch.manual_seed(0)
    model = Model()
    texts = [str.split.__doc__, str.join.__doc__, str.strip.__doc__]
    batch = {"input_ids": torch.tensor([list(text.encode()[:20]) for text in texts])}
    usual_order = partial(concatenated_layout, fused="kqv", output="out", num_heads=4, num_kv_heads=4)
    refused = 0
    for declared in (None, usual_order):
        if declared is not None:
            qkov.register_layout(FusedAttention, declared)
        try:
            qkov.prove_layout(model, batch)
        except qkov.errors.LayoutError as error:
            refused += 1
            print("refused:", error, end="\n\n")

    qkov.register_layout(FusedAttention, keys_first)
    results = qkov.prove_layout(model, batch)
    print(*results, sep="\n")
    assert refused == 2
    assert all(one.passed for one in results)


if __name__ == "__main__":
    main()
