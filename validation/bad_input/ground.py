"""What every case starts from: a tiny model, two tasks already collected from it, and batches to go on with."""

import hashlib

import numpy as np
import torch

import qkov
from qkov import reference

from .. import families
from .registry import require

IDS = ("s0", "s1", "s2")
LENGTHS = {"math": (5, 3, 6), "code": (4, 6, 5)}


class Ground:
    """A collector with tasks "math" and "code", ids "s0" to "s2", of a model whose two layers have 6 heads on 2 kv heads.

    Args:
        make_collector: ``make_collector() -> collector`` without samples.
    """

    def __init__(self, make_collector=qkov.FisherCollector):
        self.model = build_model()
        self.make_collector, self.made = make_collector, []
        self.collector = make_collector()
        for seed, (task, lengths) in enumerate(LENGTHS.items()):
            self.collect(build_batch(lengths, seed=seed), task, sample_ids=IDS)

    def collect(self, batch, task="math", *, model=None, **options):
        """Collect into the collector that holds both tasks; new samples are called "s3" and so on."""
        rows = len(next(iter(batch.values()))) if isinstance(batch, dict) else 0
        options = {"sample_ids": [f"s{3 + row}" for row in range(rows)], "progress": False} | options
        self.collector.collect_fisher(self.model if model is None else model, batch, task, **options)

    def collect_anew(self, model, batch, task="math", **options):
        """Collect into another collector, for another model; return it. After an error it must hold nothing."""
        self.made.append(self.make_collector())
        self.made[-1].collect_fisher(model, batch, task, **({"progress": False} | options))
        return self.made[-1]

    def metric(self, collector=None, **options):
        """A metric that does not mind few samples, on the collector that holds both tasks or on another."""
        collector = self.collector if collector is None else collector
        return qkov.QKOVInterferenceMetric(collector.config, collector, **({"min_samples_for_fisher": 1} | options))


def build_model(family="llama", **options):
    """A tiny model in float64, anew."""
    return families.build_family(family, **options)


def build_batch(lengths=(5, 4), *, seed=7, padding="right", width=None):
    """Random tokens, none of them the padding's, ``[N, T]``."""
    generator, width = torch.Generator().manual_seed(seed), width or max(lengths)
    ids = torch.full((len(lengths), width), families.PAD_ID)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        where = slice(0, length) if padding == "right" else slice(width - length, width)
        ids[row, where] = torch.randint(1, families.VOCAB_SIZE, (length,), generator=generator)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def require_reference(collector, task, sample_ids, model, batch, loss_fn=None, *, bound=1e-9):
    """Fail unless these samples' gradients are those of the slow float64 loops, relative to each attention module."""
    truth, tokens = reference.sample_gradients(model, batch, loss_fn)
    for sample_id, expected, count in zip(sample_ids, truth, tokens, strict=True):
        found = collector.get_sample_gradients(task, sample_id)
        require(
            collector.sample(task, sample_id).num_tokens == count, f"sample {sample_id!r} does not have {count} tokens"
        )
        for layout in collector.config.layers:
            names = {projection.param_name for projection in layout.projections}
            largest = max(np.linalg.norm(expected[name]) for name in names)
            for name in names:
                error = np.linalg.norm(found[name].double().numpy() - expected[name]) / largest
                require(error <= bound, f"gradient of {name} of sample {sample_id!r} is off by {error:.1e}")


def contents(collector):
    """Hash what a collector holds: ``{(task, id): sha256 of cluster, tokens, digest and factors}``, in its order.

    Ids of both types are kept apart; a task without samples is an entry of its own.
    """
    found = {}
    for task in collector.tasks:
        found[task, None] = ""
        for one in collector.samples(task):
            digest = hashlib.sha256(repr((one.cluster, one.num_tokens, one.digest)).encode())
            for module in sorted(one.factors):
                pair = one.factors[module]
                for tensor in (pair.inputs, pair.deltas):
                    digest.update(f"{module}{tensor.dtype}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            found[task, one.sample_id] = digest.hexdigest()
    return found


def unchanged(before, after, *, adds):
    """Whether nothing of ``before`` has changed, and nothing is new unless the action may add samples."""
    if not adds:
        return list(before.items()) == list(after.items())
    return [key for key in after if key in before] == list(before) and all(after[key] == before[key] for key in before)
