"""`python -m validation.repeated_run FOLDER NUMBER`: collect and score models from scratch, in a process of its own.

FOLDER holds ``models.pt``, the models with their batches, and ``NUMBER.json``, what to do; for each setting and model a file
of gradients and scores is written beside them.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from qkov import checks, result_file
from qkov.checks.case import num_samples, take
from qkov.collector import FisherCollector

from . import environments

FORMAT = {"format_name": "qkov-repeated-run", "format_version": 1}
ORDERS = {
    "submitted": (("a", "b"), 1),
    "tasks swapped": (("b", "a"), 1),
    "samples reversed": (("a", "b"), -1),
}
"""Which task is collected first, and in which direction its samples are."""


@dataclass(frozen=True)
class Setting:
    """One way of making a result again.

    Attributes:
        name: For tables.
        tier: "D1" where something must be the same bits, else "D2".
        bits: What must be the same bits: of "labels", "gradients", "scores", "ema". The rest is compared within D2's bounds.
        against: Name of the setting that it is compared with.
        process: Settings with the same word, threads and environment share a process.
        threads, micro_batch, tile_elements: As the collector and the metric take them.
        order: Key of :data:`ORDERS`.
        collect: Key of :data:`COLLECT`.
        environment: Variables of the process.
    """

    name: str
    tier: str = "D2"
    bits: tuple[str, ...] = ()
    against: str = "first"
    process: str = "first"
    threads: int = 1
    micro_batch: int | None = None
    tile_elements: int = 2**22
    order: str = "submitted"
    collect: str = "in memory"
    environment: dict = field(default_factory=dict)

    @property
    def place(self):
        """What settings of one process have in common."""
        return self.process, self.threads, tuple(sorted(self.environment.items()))


def collect_in_memory(case, setting):
    """Collect both tasks in the order of the setting; ids are positions in the batch, whatever the order."""
    held = FisherCollector(attention=case.attention)
    tasks, direction = ORDERS[setting.order]
    for task in tasks:
        batch = case.batch_a if task == "a" else case.batch_b
        ids = list(range(num_samples(batch)))[::direction]
        held.collect_fisher(
            case.model, take(batch, ids), task, sample_ids=ids, loss_fn=case.loss_fn, micro_batch=setting.micro_batch,
            progress=False,
        )  # fmt: skip
    return held


COLLECT = {"in memory": collect_in_memory}
"""How a collector is filled: ``collect(case, setting) -> collector``."""


def measure(case, setting):
    """Collect and score.

    Returns:
        ``(labels, arrays)``: fingerprints of the two heatmaps, and arrays by name, samples in the order of their ids:
        ``gradients/task/id/parameter``, ``scores/block``, ``ema/block``, and the two sides of the law of the exponential
        mean, ``ema law/task`` and ``ema loop/task``.
    """
    held = COLLECT[setting.collect](case, setting)
    arrays = {
        f"gradients/{task}/{one}/{name}": grad.numpy()
        for task in ("a", "b")
        for one in sorted(held.sample_ids(task))
        for name, grad in held.get_sample_gradients(task, one).items()
    }
    labels = {}
    for part, source in (("scores", "contributions"), ("ema", "ema")):
        found = case.heatmap(held, fisher_pool="pooled", fisher_source=source, tile_elements=setting.tile_elements)
        at = np.ix_(np.argsort(found.sample_a), np.argsort(found.sample_b))
        arrays |= {f"{part}/{block}": scores[at] for block, scores in found.arrays.items()}
        labels[part] = found.fingerprint
    for task in ("a", "b"):
        arrays[f"ema law/{task}"] = exponential_means(held, task)
        arrays[f"ema loop/{task}"] = exponential_loop(held, task)
    return labels, arrays


def exponential_means(held, task):
    """Sum the exponential Fisher over the heads of each layer."""
    found = held.get_group_fisher(task, mode="ema")
    return np.array([
        sum(float(found[layout.layer, one.block].sum()) for one in layout.projections) for layout in held.config.layers
    ])  # fmt: skip


def exponential_loop(held, task):
    """The same from whole contributions, updated a sample at a time in the order in which they were collected."""
    running, weight = np.zeros(len(held.config.layers)), 0.0
    for one in held.contribution_cache[task].values():
        sums = [
            sum(float(one[name].double().sum()) for name in {part.param_name for part in layout.projections})
            for layout in held.config.layers
        ]
        running = held.ema_decay * running + (1 - held.ema_decay) * np.array(sums)
        weight = held.ema_decay * weight + (1 - held.ema_decay)
    return running / weight


def path_of(folder, setting, model):
    """Where a run is written."""
    return Path(folder) / f"{setting} - {model}.safetensors"


def write_request(folder, number, settings):
    """Write what a process is to do."""
    Path(folder, f"{number}.json").write_text(json.dumps([asdict(one) for one in settings]), encoding="utf-8")


def main(arguments):
    """Do what the file says."""
    folder, number = arguments
    settings = [Setting(**one) for one in json.loads(Path(folder, f"{number}.json").read_text(encoding="utf-8"))]
    torch.set_num_threads(settings[0].threads)
    # Written a moment ago by the process that waits for this one, so that no model is trained or built twice.
    cases = torch.load(Path(folder, "models.pt"), weights_only=False)
    for setting in settings:
        for name, parts in cases.items():
            labels, arrays = measure(checks.Case(name, *parts), setting)
            content = {"labels": labels, "probe": environments.probe()}
            result_file.write(path_of(folder, setting.name, name), content, arrays, **FORMAT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
