"""Does the metric mean what it should on a model of my own, with a loss of my own?

    python own_model.py

The model is plain torch, nothing of transformers: one layer of attention that tells Python code from prose by its
bytes. Where its heads are is declared in one line, as its four projections are linear layers of their own;
`own_adapter.py` shows what to do where they are not. What a loss is, `loss_fn` says: one number for each sample, which
must not depend on other samples.

It prints where the heads were found, then one line for each law that was measured on the model: its error, what was
allowed, and how many numbers were compared. A law that cannot be tried on such a model says why. None may fail.
"""

import inspect
import json
import string
import textwrap
from functools import partial

import torch

import qkov
from qkov.locate import split_layout


class Attention(torch.nn.Module):
    def __init__(self, width, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.wq, self.wk, self.wv, self.wo = (torch.nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden):
        def heads(projection):
            return projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        mixed = torch.nn.functional.scaled_dot_product_attention(*map(heads, (self.wq, self.wk, self.wv)))
        return self.wo(mixed.transpose(1, 2).flatten(2))


class Classifier(torch.nn.Module):
    def __init__(self, width=16, num_heads=4):
        super().__init__()
        self.embedding = torch.nn.Embedding(256, width)
        self.attention = Attention(width, num_heads)
        self.decision = torch.nn.Linear(width, 2)

    def forward(self, text):
        hidden = self.embedding(text)
        return self.decision((hidden + self.attention(hidden)).mean(1))


def loss_fn(model, batch):
    """Return the loss of every sample, ``[N]``, in nats; a mean over samples would mix them."""
    return torch.nn.functional.cross_entropy(model(batch["text"]), batch["is_code"], reduction="none")


def samples(objects, is_code, length=24):
    source = inspect.getsource if is_code else inspect.getdoc
    rows = [list(source(one).encode()[:length]) for one in objects]
    return {"text": torch.tensor(rows), "is_code": torch.full((len(rows),), int(is_code))}


def main():
    torch.manual_seed(0)
    model = Classifier()
    code = samples((json.dumps, textwrap.wrap, string.capwords, inspect.cleandoc), is_code=True)
    prose = samples((json.loads, textwrap.dedent, string.Template, inspect.getdoc), is_code=False)

    qkov.register_layout(Attention, partial(split_layout, query="wq", key="wk", value="wv", output="wo"))
    config = qkov.QKOVConfig.from_model(model)
    print("query head 1 of layer 0 is", qkov.QKOVIndexer(config).get_slice(layer=0, head=1, block="Q"))

    collector = qkov.FisherCollector()
    collector.collect_fisher(model, code, "code", loss_fn=loss_fn)
    gradient = collector.get_sample_gradients("code", 2)["attention.wv.weight"]

    results = qkov.check_model(model, prose, code, loss_fn=loss_fn)
    print(*results, sep="\n")
    assert not [one for one in results if one.status == "failed"]

    losses = loss_fn(model, {name: value[2:3] for name, value in code.items()})
    (alone,) = torch.autograd.grad(losses.sum(), [model.attention.wv.weight])
    torch.testing.assert_close(gradient, alone)
    print("a gradient from the batch is the one that torch gives of the sample alone")


if __name__ == "__main__":
    main()
