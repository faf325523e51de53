"""`python -m validation.repeated_run FOLDER NUMBER`: collect and score models from scratch, in a process of its own.

FOLDER holds ``NUMBER.json``, which of ``models.CASES`` to repeat and how, and their weights and batches; for each setting and
model a file of gradients and scores is written beside them. Weights are handed over, because a process with other arithmetic
would train other ones.
"""

import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from qkov import checks, losses, result_file
from qkov.checks.case import num_samples, take
from qkov.collector import FisherCollector

from . import environments, models, trained

TRAINED = {f"trained-{family}": family for family in trained.FAMILIES}
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


def collect_killed_and_resumed(case, setting):
    """Collect into a store in a process that is killed in a pass of the second task, and resume in this one."""
    folder = tempfile.TemporaryDirectory(prefix="qkov-")
    path = Path(folder.name) / "store"
    child = os.fork()
    if not child:
        try:
            _collect_stored(case, setting, path, killed=True)
        finally:
            os._exit(1)  # reached only if nothing was killed
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the collection that was to be killed ended by itself, so nothing is shown by resuming it")
    held = FisherCollector.open(path, allow_unsealed=True)
    if held.tasks != ("a",):
        raise RuntimeError(f"the killed collection left tasks {held.tasks}; expected the first one whole")
    _collect_stored(case, setting, path, killed=False)
    held = FisherCollector.open(path)
    held.folder = folder  # it goes when the collector goes
    return held


def _collect_stored(case, setting, path, *, killed):
    loss_fn = case.loss_fn or losses.causal_lm_loss

    def loss(model, batch):
        if killed and held.tasks:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss_fn(model, batch)

    # Factors: gradients of whole weights are compared here, and those kept whole are made slice by slice.
    with FisherCollector(attention=case.attention, store=path, store_form="factors") as held:
        for task, batch in (("a", case.batch_a), ("b", case.batch_b)):
            held.collect_fisher(case.model, batch, task, loss_fn=loss, micro_batch=setting.micro_batch, progress=False)


COLLECT = {"in memory": collect_in_memory, "killed and resumed": collect_killed_and_resumed}
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


def write_case(folder, name, parts):
    """Write the weights and batches of ``(model, batch_a, batch_b, loss)``."""
    model, batch_a, batch_b, _ = parts
    tensors = {f"model/{key}": value.detach() for key, value in model.named_parameters()}
    tensors |= {
        f"{task}/{key}": value for task, batch in (("a", batch_a), ("b", batch_b)) for key, value in batch.items()
    }
    tensors = {key: value.contiguous().clone() for key, value in tensors.items()}
    save_file(tensors, Path(folder, f"{name}.case.safetensors"))


def read_case(folder, name):
    """Build a case with the weights and batches of :func:`write_case`."""
    found = {"model": {}, "a": {}, "b": {}}
    for key, value in load_file(Path(folder, f"{name}.case.safetensors")).items():
        part, _, rest = key.partition("/")
        found[part][rest] = value
    if name in TRAINED:
        model, loss_fn = trained.build_model(trained.recipe_of(TRAINED[name])), None
    else:
        model, _, _, loss_fn = models.CASES[name].build()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(found["model"].pop(key))
    if found["model"]:
        raise KeyError(f"{name} has no parameters {sorted(found['model'])}")
    return checks.Case(name, model.eval(), found["a"], found["b"], loss_fn)


def write_request(folder, number, names, settings):
    """Write what a process is to do: which of ``models.CASES`` to repeat under which settings."""
    content = {"models": list(names), "settings": [asdict(one) for one in settings]}
    Path(folder, f"{number}.json").write_text(json.dumps(content), encoding="utf-8")


def main(arguments):
    """Do what the file says."""
    folder, number = arguments
    request = json.loads(Path(folder, f"{number}.json").read_text(encoding="utf-8"))
    settings = [Setting(**one) for one in request["settings"]]
    torch.set_num_threads(settings[0].threads)
    cases = [read_case(folder, name) for name in request["models"]]
    for setting in settings:
        for case in cases:
            labels, arrays = measure(case, setting)
            content = {"labels": labels, "probe": environments.probe()}
            result_file.write(path_of(folder, setting.name, case.name), content, arrays, **FORMAT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
