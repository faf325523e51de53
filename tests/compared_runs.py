"""Runs with samples and every result, made in seconds, and copies of them with one thing planted."""

import shutil
import warnings
from dataclasses import replace

import numpy as np

import qkov
from qkov import run_folder
from qkov.errors import StatisticsWarning
from tests import runs
from tests.builders import build_batch, build_model

COUNT, PERMUTATIONS = 8, 199


def make_run(folder, *, name="run", family="llama", changes=None, keep_store=True, tests=True):
    """Collect, score, test and predict; a complete run of three tasks with clusters. Returns its folder."""
    if not (folder / "model").is_dir():
        runs.make_inputs(folder, count=COUNT)
    changes = {"statistics": {"n_permutations": PERMUTATIONS}, **(changes or {})}
    config, path = runs.make_config(folder, **changes), folder / name
    model = build_model(family, dtype=qkov_float32())
    data = {
        task: {
            "path": config.tasks[task].path,
            "sha256": run_folder.file_digest(config.task_path(task)),
            "samples": COUNT,
        }
        for task in runs.TASKS
    }
    record = run_folder.begin_run(path, config, {"command": f"qkov run {name}", "data": data, **facts(model)})
    with qkov.FisherCollector(store=path / "store") as collector:
        for number, task in enumerate(runs.TASKS):
            lines = runs.task_lines(task, COUNT)
            collector.collect_fisher(
                model, build_batch((6,) * COUNT, seed=number), task, sample_ids=[one["id"] for one in lines],
                clusters=[f"{task}-{one}" for one in range(COUNT)], progress=False,
            )  # fmt: skip
    collector = qkov.FisherCollector.open(path / "store")
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled", min_samples_for_fisher=1)
    results = {
        "scores-unsigned.safetensors": metric.compute_heatmap("math", "code", progress=False),
        "prediction.safetensors": qkov.predict_change(collector, "math", "code", progress=False),
    }
    if tests:
        test = qkov.QKOVStatistics(n_permutations=PERMUTATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticsWarning)  # few clusters, on purpose
            found = test.test_heatmap(collector, "math", "code", "chat", seed=0, progress=False)
        results["statistics.safetensors"] = found
    for file, result in results.items():
        record = run_folder.add_result(path, record, file, result)
    run_folder.write_record(path, {**record, "status": "complete"})
    if not keep_store:
        shutil.rmtree(path / "store")
    return path


def qkov_float32():
    """The number format of the models."""
    import torch

    return torch.float32


def facts(model):
    """What a record says of where a run was made."""
    from qkov import reproducibility

    environment = reproducibility.environment_record()
    return {
        "versions": environment,
        "threads": environment["threads"],
        "device": "cpu",
        "model": {"class": type(model).__name__, "fingerprint": reproducibility.model_fingerprint(model)},
    }


def copy_of(path, name="copy", *, record=None, results=None):
    """Copy a run, with some fields of its record and some results replaced."""
    target = path.parent / name
    shutil.copytree(path, target)
    content = {**run_folder.read_record(target), **(record or {})}
    run_folder.write_record(target, content)
    for file, result in (results or {}).items():
        content = run_folder.add_result(target, content, file, result)
    return target


def with_scores(heatmap, block, change):
    """A heatmap in which ``change(scores [n_a, n_b, layers, units])`` was made to a copy of a block's scores."""
    arrays = {name: np.array(values) for name, values in heatmap.arrays.items()}
    change(arrays[block])
    return replace(heatmap, arrays=arrays)


def with_columns(found, **columns):
    """Tests with some columns replaced."""
    return replace(found, columns={**found.columns, **columns})
