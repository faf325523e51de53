"""Faults of what is done with scores: roles, ids, averages, rankings, empty tasks, files."""

import copy
import dataclasses
import functools
import time

import numpy as np

from qkov import gradients

from .planting import fault

metric = functools.partial(fault, area="metric")
ids = functools.partial(fault, area="ids")
result = functools.partial(fault, area="result")


@metric("scoring.score_slice", expected="loss_scale")
def tasks_exchanged(original):
    """The roles of the tasks are exchanged: B's sensitivity to A is reported as A's to B."""

    def score_slice(side_a, side_b, *rest):
        found = original(side_b, side_a, *rest)
        return dataclasses.replace(found, scores=found.scores.T.contiguous())

    return score_slice


@metric("interference.QKOVInterferenceMetric._slice_norms", expected="marginal_identity")
def norms_are_euclidean(original):
    """The norm of B's gradient beside the averages is Euclidean, not the L1 norm that they equal."""

    def slice_norms(self, side, projection, unit):
        sizes = original(self, side, projection, unit)
        for row, one in enumerate(side.members):
            head, other = gradients.slice_factors(one.factors, projection, unit)
            sizes[row] = float((head.T @ other).norm())
        return sizes

    return slice_norms


@metric("interference.QKOVInterferenceMetric._sides", expected="ids")
def rows_reversed(original):
    """Scores are written in the reverse order of A's samples."""

    def sides(self, task_a, task_b, rows_a, rows_b):
        return original(self, task_a, task_b, rows_a[::-1], rows_b)

    return sides


@ids("collector.FisherCollector.sample_ids", expected="ids")
def ids_looked_up_sorted(original):
    """A sample is found by the place of its id among sorted ids, not among the collected samples."""
    return lambda self, task: tuple(sorted(original(self, task)))


@ids("labels.checked_ids", expected="ids")
def positions_instead_of_ids(original):
    """A result is labelled by positions 0, 1, ... instead of ids."""
    return lambda given, name: tuple(range(len(original(given, name))))


@result("heatmap.Heatmap.top_conflicts", expected="top_conflicts")
def conflicts_once_per_query_head(original):
    """Conflicts of K and V are listed once for every query head that shares the kv head."""

    def top_conflicts(self, block, *, top_k=10):
        rows = original(self, block, top_k=top_k)
        if block in "KV":
            rows = [row | {"head": head} for row in rows for head in _sharing(self, row)]
        return rows[:top_k]

    return top_conflicts


@result("strongest.strongest_places", expected="top_conflicts")
def conflicts_never_negative(original):
    """Signed conflicts are ranked from the largest score down, so that the list shows synergy."""
    return lambda values, top_k, *, ascending: original(values, top_k, ascending=False)


@result("heatmap.Heatmap.mean_map", expected="averages")
def averages_are_medians(_original):
    """A picture shows medians over pairs under the name of averages."""
    return lambda self, block: np.median(self.arrays[block], axis=(0, 1))


@result("scoring.score_marginals", expected="summary")
def means_without_the_last_sample(original):
    """The mean over B's samples of a summary leaves the last one out."""

    def score_marginals(side_a, side_b, *rest):
        fewer = copy.copy(side_b)
        fewer.rows = side_b.rows[:-1]
        return dataclasses.replace(original(side_a, side_b, *rest), by_a=original(side_a, fewer, *rest).by_a)

    return score_marginals


@result("summary_frame.SummaryFrame.put", expected="summary", case="deep")
def list_of_the_first_layer(original):
    """The list of the strongest pairs of a summary is that of the first layer alone."""

    def put(self, block, place, column, marginals, scores=None):
        return original(self, block, place, column, marginals, None if place else scores)

    return put


@result("score_files._place", expected="summary", case="deep")
def files_by_unit(original):
    """Scores in files lie unit by unit and are read layer by layer."""

    def place(shape, layer, unit, row):
        turned = unit * shape[2] + layer
        return original(shape, turned // shape[3], turned % shape[3], row)

    return place


@result("heatmap.Heatmap.mean_map", expected="empty_task")
def empty_average_is_one(original):
    """The average over no pair at all is 1, as if a neutral score had been measured."""

    def mean_map(self, block):
        found = original(self, block)
        return found if len(self.sample_b) else np.ones_like(found)

    return mean_map


@result("labels.checked_attributes", expected="empty_task")
def always_valid(original):
    """A result without a pair calls itself valid."""
    return lambda *arguments, **options: original(*arguments, **options) | {"valid": True}


@result("heatmap.Heatmap._parts", expected="file")
def saved_without_ids(original):
    """A saved result forgets its ids and keeps positions."""

    def parts(self):
        content, arrays = original(self)
        return content | {name: list(range(len(content[name]))) for name in ("sample_a", "sample_b")}, arrays

    return parts


@result("result_file.write", expected="file")
def saved_in_single_precision(original):
    """Scores are saved in float32."""

    def write(path, content, arrays, **options):
        narrow = {
            name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in arrays.items()
        }
        return original(path, content, narrow, **options)

    return write


@result("result_file.write", expected="file")
def saved_with_the_time(original):
    """The time of saving is written into the file, so that equal results are unequal files."""

    def write(path, content, arrays, **options):
        content = content | {"attributes": content["attributes"] | {"saved": time.time_ns()}}
        return original(path, content, arrays, **options)

    return write


def _sharing(heatmap, row):
    """Query heads that read the kv head of a row."""
    places = heatmap.kv_index[heatmap.layers.index(row["layer"])]
    kv_head = heatmap.kv_heads.index(row["kv_head"])
    return [head for head, place in zip(heatmap.heads, places, strict=True) if place == kv_head]
