"""Collectors with three tasks on tiny models, for the tests of tests: clusters of different sizes, in float64."""

import functools

import numpy as np
import torch
import transformers

import qkov
from tests import builders

LENGTHS = {"a": (7, 5, 6, 7, 4, 6, 5, 7), "b": (6, 7, 5, 4, 7, 6), "r": (5, 6, 7, 7, 6, 5, 4)}
CLUSTERS = {
    "a": ("m0", "m0", "m1", "m2", "m2", "m3", "m4", "m5"),
    "b": ("n0", "n1", "n1", "n2", "n3", "n4"),
    "r": ("s0", "s1", "s2", "s2", "s3", "s4", "s5"),
}


@functools.cache
def three_tasks(family="llama", dtype=torch.float64, clusters=True):
    """A collector of tasks "a", "b" and "r" with string ids; not to be changed."""
    collector = qkov.FisherCollector()
    model = builders.build_model(family, dtype=dtype)
    for seed, (task, lengths) in enumerate(LENGTHS.items()):
        batch = builders.build_batch(lengths, seed=seed)
        ids = [f"{task}-{row}" for row in range(len(lengths))]
        labels = CLUSTERS[task] if clusters else None
        collector.collect_fisher(model, batch, task, sample_ids=ids, clusters=labels, progress=False)
    return collector


@functools.cache
def uneven_tasks():
    """A collector of a model whose second layer has 3 query heads on 3 kv heads, and its first 6 on 2."""
    model = builders.build_model("llama", layers=2)
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 20}
    narrow = transformers.LlamaConfig(head_dim=4, attn_implementation="eager", **sizes)
    attention = transformers.models.llama.modeling_llama.LlamaAttention(narrow, 1).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    model.model.layers[1].self_attn = attention
    collector = qkov.FisherCollector()
    for seed, (task, lengths) in enumerate(LENGTHS.items()):
        batch = builders.build_batch(lengths, seed=seed)
        collector.collect_fisher(model, batch, task, clusters=CLUSTERS[task], progress=False)
    return collector


def gradients_of(collector, task):
    """Gradients through the public indexer, a list of float64 ``[samples, parameters]`` and the slices' labels."""
    indexer = qkov.QKOVIndexer(collector.config)
    grads = [collector.get_sample_gradients(task, one) for one in collector.sample_ids(task)]
    found, labels = [], []
    for layout in collector.config.layers:
        for block in "QKVO":
            heads = range(layout.num_heads)
            if block in "KV":
                heads = heads[:: layout.num_heads // layout.num_kv_heads]
            for unit, head in enumerate(heads):
                name = indexer.get_slice(layout.layer, head, block).param_name
                rows = [indexer.slice_tensor(grad[name], layout.layer, head, block).reshape(-1) for grad in grads]
                found.append(np.stack([row.double().numpy() for row in rows]))
                labels.append((block, layout.layer, unit))
    return found, labels
