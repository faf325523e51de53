"""Laws of the result: true ids, averages that count a kv head once, empty tasks, files, the same bits twice."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import collector, errors, heatmap
from .case import num_samples, some, take
from .measurement import Comparison
from .registry import check

if TYPE_CHECKING:
    from .case import Case
    from .measurement import Measurement, NotRun


@check
def check_ids(case: Case) -> Measurement | NotRun:
    """Ids, not positions: shuffled string ids name the same samples in pairs, coordinates and top lists."""
    comparison = Comparison()
    rows = list(range(num_samples(case.batch_a)))[::-1]
    ids_a, ids_b = [f"doc:{row}" for row in rows], [100 + 7 * row for row in range(num_samples(case.batch_b))]
    plain = case.heatmap(case.collect())
    held = collector.FisherCollector(attention=case.attention)
    held.collect_fisher(
        case.model, take(case.batch_a, rows), "a", sample_ids=ids_a, loss_fn=case.loss_fn, progress=False
    )
    held.collect_fisher(case.model, case.batch_b, "b", sample_ids=ids_b, loss_fn=case.loss_fn, progress=False)
    found, metric = case.heatmap(held), case.metric(held)
    comparison.true(found.sample_a == tuple(ids_a) and found.sample_b == tuple(ids_b))
    if comparison.error:  # nothing can be looked up under ids that are not there
        return comparison.measurement(case.bound("score"))
    layer = case.layouts()[-1]
    place = found.layers.index(layer.layer)
    for head in some(layer.num_heads, 2):
        i, j = ids_a[0], ids_b[-1]
        pair = metric.compute_sample_pair("a", i, "b", j, layer.layer, head)
        for block in pair:
            scale = np.abs(found.arrays[block][:, :, place]).max()
            comparison.near(pair[block], plain[block]["scores"][rows[0], len(ids_b) - 1, place, head], scale)
            labelled = found.data["scores"].sel(block=block, layer=layer.layer, head=head, sample_a=i, sample_b=j)
            comparison.near(float(labelled), pair[block], scale)
    for block in found:
        top = found[block]["top_conflicts"][0]
        comparison.near(top["score"], np.nanmax(plain.arrays[block]))
        entry = metric.compute_sample_pair("a", top["sample_i"], "b", top["sample_j"], top["layer"], top["head"])[block]
        comparison.near(entry, top["score"])
    return comparison.measurement(case.bound("score"))


@check
def check_selection(case: Case) -> Measurement | NotRun:
    """A chosen layer, a few heads and the first samples are that part of the whole: F comes from all samples collected."""
    comparison = Comparison()
    held = case.collect()
    one = case.layouts()[-1]
    last = one.num_heads - 1
    for variant, heads in (("unsigned", [last]), ("natural", [last, 0] if last else [0])):
        metric = case.metric(held, variant=variant)
        whole = metric.compute_heatmap("a", "b", layers=[one.layer], progress=False)
        part = metric.compute_heatmap("a", "b", layers=one.layer, heads=heads, max_samples_per_task=1, progress=False)
        comparison.true(part.layers == (one.layer,) and part.heads == tuple(heads))
        comparison.true(part.sample_a == whole.sample_a[:1] and part.sample_b == whole.sample_b[:1])
        for block in whole:
            expected = whole[block]["scores"]
            comparison.near(part[block]["scores"], expected[:1, :1][..., heads], np.abs(expected).max())
    return comparison.measurement(case.bound("identity"))


@check
def check_top_conflicts(case: Case) -> Measurement | NotRun:
    """The list is the strongest scores in order, the most negative first where that is conflict, each kv head once."""
    comparison = Comparison()
    held = case.collect()
    for variant, sign in (("unsigned", -1), ("signed", 1)):
        found = case.heatmap(held, variant=variant)
        for block in found:
            top = found[block]["top_conflicts"]
            truth = np.sort(sign * found.arrays[block][np.isfinite(found.arrays[block])])[: len(top)]
            comparison.near([sign * row["score"] for row in top], truth)
            unit = "kv_head" if block in "KV" else "head"
            places = {(row["sample_i"], row["sample_j"], row["layer"], row[unit]) for row in top}
            comparison.true(len(places) == len(top) == min(10, np.isfinite(found.arrays[block]).sum()))
            for row in top:
                place = (found.sample_a.index(row["sample_i"]), found.sample_b.index(row["sample_j"]))
                place += (found.layers.index(row["layer"]), found.heads.index(row["head"]))
                comparison.near(found[block]["scores"][place], row["score"])
    return comparison.measurement(case.bound("identity"))


@check
def check_averages(case: Case) -> Measurement | NotRun:
    """Averages and tables are those of the pairs, K and V on the kv axis, and the query-head view repeats them."""
    comparison = Comparison()
    found = case.heatmap(case.collect(), aggregate="mean")
    for block in found:
        scores = found[block]["scores"]
        comparison.near(found[block]["layer_head_avg"], scores.mean((0, 1)))
        table = found.to_dataframe(level="slice")
        average = table[table["block"] == block]["mean"].to_numpy()
        comparison.near(np.sort(average), np.sort(found.arrays[block].mean((0, 1)).ravel()))
        for place, layer in enumerate(found.layers):
            one = case.config.layer(layer)
            size = one.num_heads // one.num_kv_heads if block in "KV" else 1
            comparison.near(scores[:, :, place], np.repeat(found.arrays[block][:, :, place], size, axis=-1))
    return comparison.measurement(case.bound("identity"))


@check
def check_summary(case: Case) -> Measurement | NotRun:
    """Reduced while it is made, or in files, a result is that of all pairs: means over either task, lists of pairs."""
    comparison = Comparison()
    held = case.collect()
    with tempfile.TemporaryDirectory() as folder:
        for variant, pool in (("unsigned", "A"), ("signed", "pooled")):
            metric = case.metric(held, variant=variant, fisher_pool=pool)
            found = metric.compute_heatmap("a", "b", progress=False)
            in_files = metric.compute_heatmap("a", "b", scores_path=Path(folder) / variant, progress=False)
            comparison.true(in_files.identical(found))
            summary = metric.compute_summary("a", "b", progress=False)
            for block in found:
                scores, exists = found.arrays[block], found.exists(block)
                if not exists.any():
                    continue
                comparison.near(in_files.arrays[block][:, :, exists], scores[:, :, exists])
                largest = np.abs(scores[:, :, exists]).max()
                comparison.near(summary.by_a[block][:, exists], scores.mean(1)[:, exists], largest)
                comparison.near(summary.by_b[block][:, exists], scores.mean(0)[:, exists], largest)
                comparison.true(summary.top_conflicts(block) == found.top_conflicts(block))
    return comparison.measurement(case.bound("score"))


@check
def check_empty_task(case: Case) -> Measurement | NotRun:
    """An empty task B gives scores of shape (n_a, 0, layers, heads), zero averages, a warning, and valid=False."""
    comparison = Comparison()
    held = case.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = case.metric(held).compute_heatmap("a", "never collected", progress=False)
    comparison.true(any(issubclass(one.category, errors.EmptyTaskWarning) for one in caught))
    comparison.true(found.attributes["valid"] is False)
    shape = (num_samples(case.batch_a), 0, len(found.layers), len(found.heads))
    for block in found:
        comparison.true(found[block]["scores"].shape == shape)
        comparison.true(found[block]["top_conflicts"] == [])
        comparison.near(np.nan_to_num(found[block]["layer_head_avg"], nan=1.0), np.zeros(shape[2:]), 1.0)
    comparison.true(case.heatmap(held).attributes["valid"] is True)
    return comparison.measurement(case.bound("same"))


@check
def check_determinism(case: Case) -> Measurement | NotRun:
    """Collected and scored twice from scratch, every bit of the result is the same."""
    comparison = Comparison()
    first, second = (case.heatmap(case.collect(), variant="signed") for _ in range(2))
    comparison.true(first.identical(second))
    for block in first.arrays:
        comparison.near(second.arrays[block], first.arrays[block])
    return comparison.measurement(case.bound("same"))


@check
def check_file(case: Case) -> Measurement | NotRun:
    """A result loads as it was saved, and equal results are equal files."""
    comparison = Comparison()
    held = collector.FisherCollector(attention=case.attention)
    for task, batch in (("a", case.batch_a), ("b", case.batch_b)):
        ids = [f"{task}:{row}" for row in range(num_samples(batch))]
        held.collect_fisher(case.model, batch, task, sample_ids=ids, loss_fn=case.loss_fn, progress=False)
    found = case.heatmap(held)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("one.safetensors", "two.safetensors")]
        for path in paths:
            found.save(path)
        comparison.true(paths[0].read_bytes() == paths[1].read_bytes())
        loaded = heatmap.load_heatmap(paths[0])
    comparison.true(loaded.identical(found))
    comparison.true(loaded.attributes == found.attributes and loaded.sample_a == found.sample_a)
    for block in found.arrays:
        comparison.near(loaded.arrays[block], found.arrays[block])
    return comparison.measurement(case.bound("same"))
