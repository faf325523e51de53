"""Faults of slicing and of the map from query heads to kv heads: the right numbers under the wrong head."""

import dataclasses
import functools

import numpy as np

from .planting import fault

slicing = functools.partial(fault, area="slicing")
mapping = functools.partial(fault, area="head mapping")


@slicing("packings.Linear.projection", expected="output_columns")
def output_by_rows(original):
    """O is sliced by its output rows, like Q, K and V, instead of its input columns."""

    def projection(self, block, starts, width):
        found = original(self, block, starts, width)
        return dataclasses.replace(found, head_axis=self.output_axis, side="output") if block == "O" else found

    return projection


@slicing("geometry.Projection.slice_of", expected="slices_tile")
def starts_one_early(original):
    """Every slice but the first starts and ends one index early."""

    def slice_of(self, unit):
        found = original(self, unit)
        return dataclasses.replace(found, row_slice=_early(found.row_slice), col_slice=_early(found.col_slice))

    return slice_of


@slicing("geometry.Projection.interval", expected="row_perturbation")
def values_of_the_next_head(original):
    """The V slice of a kv head is that of the kv head after it."""
    return lambda self, unit: original(self, (unit + 1) % self.num_units if self.block == "V" else unit)


@slicing("packings._Stated.agreed", expected="head_rows")
def values_as_wide_as_keys(original):
    """V and O slices have the width of a key head, not of a value head."""

    def agreed(self, *sizes):
        found = original(self, *sizes)
        return dataclasses.replace(found, v_head_dim=found.head_dim)

    return agreed


@slicing("packings.interleaved_layout", expected="head_rows", case="interleaved")
def read_as_concatenated(original):
    """A projection that interleaves Q, K and V by head is read as all queries, all keys, all values."""

    def interleaved_layout(*arguments, **options):
        found = original(*arguments, **options)
        first, parts = 0, []
        for one in found.projections[:3]:
            parts.append(dataclasses.replace(one, starts=_run(first, one)))
            first += one.num_units * one.width
        return dataclasses.replace(found, projections=(*parts, found.projections[3]))

    return interleaved_layout


@slicing("packings._Sizes.assemble", expected="query_position", case="equal widths")
def queries_and_keys_exchanged(original):
    """Q and K are exchanged."""
    return lambda self, name, packing, parts, starts: original(
        self, name, packing, _taken(parts, 1, 0, 2, 3), _taken(starts, 1, 0, 2, 3)
    )


@slicing("packings._Sizes.assemble", expected="zeroed_weights", case="equal widths")
def keys_and_values_exchanged(original):
    """K and V are exchanged."""
    return lambda self, name, packing, parts, starts: original(
        self, name, packing, _taken(parts, 0, 2, 1, 3), _taken(starts, 0, 2, 1, 3)
    )


@slicing("gradients.slice_factors", expected="ablation")
def output_of_the_next_head(original):
    """The O slice of a head is built from the columns of the head after it."""

    def slice_factors(factors, projection, unit):
        return original(factors, projection, (unit + 1) % projection.num_units if projection.block == "O" else unit)

    return slice_factors


@slicing("scoring.score_slice", expected="reference_scores")
def bias_always_included(original):
    """Bias entries are part of every slice, whether asked for or not."""

    def score_slice(side_a, side_b, layout, projection, unit, options):
        return original(side_a, side_b, layout, projection, unit, dataclasses.replace(options, include_bias=True))

    return score_slice


@slicing("gradients.bias_gradient", expected="reference_scores")
def bias_of_the_first_head(original):
    """Every head is given the bias entries of the first."""
    return lambda factors, projection, _unit, out: original(factors, projection, 0, out)


@mapping("geometry.kv_head_of", expected="relabelling")
def kv_head_by_remainder(_original):
    """Query head h is said to read kv head h % H_kv instead of h // (H / H_kv)."""
    return lambda head, _num_heads, num_kv_heads: head % num_kv_heads


@mapping("heatmap.Heatmap.on_query_heads", expected="averages")
def view_by_remainder(original):
    """The view on query heads repeats the whole row of kv heads instead of each of them."""

    def on_query_heads(self, block, values):
        if block not in "KV":
            return original(self, block, values)
        return values[..., np.arange(len(self.heads)) % len(self.kv_heads)]

    return on_query_heads


@mapping("geometry.Projection.interval", expected="head_rows")
def query_heads_reversed(original):
    """Query heads are counted from the last row."""

    def interval(self, unit):
        return original(self, self.num_units - 1 - unit if self.block == "Q" else unit)

    return interval


@mapping("score_frame.Grid.units", expected="selection")
def kv_head_by_place(original):
    """With some heads chosen, a kv head is taken by its place among the chosen ones instead of by its number."""

    def units(self, layout, block):
        found = original(self, layout, block)
        return [(column, column) for column, _ in found] if block in "KV" else found

    return units


@mapping("score_frame.Grid.labels", expected="selection", case="deep")
def layers_by_place(original):
    """With some layers chosen, they are labelled 0, 1, ... instead of by their numbers."""
    return lambda self: original(self) | {"layers": tuple(range(len(self.layouts)))}


def _early(interval):
    return (interval[0] - 1, interval[1] - 1) if interval and interval[0] else interval


def _run(first, projection):
    return tuple(range(first, first + projection.num_units * projection.width, projection.width))


def _taken(values, *places):
    values = list(values)
    return [values[place] for place in places]
