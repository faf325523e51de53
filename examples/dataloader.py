"""How do I collect from a torch DataLoader, with padding, ids and clusters of my own?

    python dataloader.py

A batch may be any iterable of batches, so a DataLoader goes in as it is. Ids and clusters are iterables beside it, in
the same order: do not shuffle. Samples of one cluster (here: methods of one class) are not independent, and tests count
clusters.

It prints how many samples, tokens and clusters were collected. What padding does to a gradient is nothing: the longest
and the shortest sample have the gradient that they have alone, without padding.
"""

import collections
import io
import pathlib

import torch
import transformers

import qkov


def documented_methods():
    """Return ``[(id, cluster, bytes)]``: docstrings of methods, of very different lengths."""
    classes = (str, bytes, dict, list, set, int, float, collections.Counter, io.StringIO, pathlib.Path)
    return [
        (f"{one.__name__}.{name}", one.__name__, method.__doc__.encode()[:100])
        for one in classes
        for name, method in sorted(vars(one).items())
        if callable(method) and not name.startswith("_") and method.__doc__
    ]


def padded(rows):
    """Make one batch: bytes as tokens, padding on the right, the mask that says which tokens are real."""
    tokens = [torch.tensor(list(text)) for _, _, text in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=0)
    lengths = torch.tensor([len(one) for one in tokens])
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}


def main():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    model, methods = transformers.GPT2LMHeadModel(config), documented_methods()
    loader = torch.utils.data.DataLoader(methods, batch_size=16, collate_fn=padded)

    collector = qkov.FisherCollector()
    ids, clusters = [one[0] for one in methods], [one[1] for one in methods]
    collector.collect_fisher(model, loader, "methods", sample_ids=ids, clusters=clusters)

    samples = collector.samples("methods")
    tokens = [one.num_tokens for one in samples]
    print(f"{len(samples)} samples of {min(tokens)} to {max(tokens)} predicted tokens,", end=" ")
    print(f"{len(set(collector.clusters('methods').values()))} clusters: {sorted(set(clusters))}")

    for row in (tokens.index(min(tokens)), tokens.index(max(tokens))):
        alone = qkov.FisherCollector()
        alone.collect_fisher(model, padded(methods[row : row + 1]), "one")
        together = collector.get_sample_gradients("methods", ids[row])
        for name, gradient in alone.get_sample_gradients("one", 0).items():
            torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-5)
        print(f"the gradient of {ids[row]!r} is the same in its padded batch and alone")


if __name__ == "__main__":
    main()
