"""One slice at a time: options, tiles, the Fisher's block mean, dead slices, and numbers out of range."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkov import fisher, gradients, reference, scoring
from qkov.errors import NonFiniteError, OptionError
from qkov.scoring import ScoreOptions, Side
from tests.builders import build_batch, build_model, collect, reference_gradients

LENGTHS = (5, 7, 4)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def collected(request):
    """A collector with rows and columns as heads, and the reference gradients of its samples."""
    return collect(build_model(request.param), build_batch(LENGTHS)), reference_gradients(
        request.param, "sdpa", LENGTHS
    )


def every_slice(collector):
    return [
        (layout, projection, unit)
        for layout in collector.config.layers
        for projection in layout.projections
        for unit in range(projection.num_units)
    ]


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "loud"}, "variant='loud' is not known; expected one of 'unsigned', 'natural'"),
        ({"variant": "full", "fisher_source": "head"}, "one number per slice holds no matrix"),
        ({"variant": "kfac", "epsilon": 1e-10}, "a floor under single parameters has no meaning for a matrix"),
        ({"variant": "kfac", "ridge_lambda_rel": 1e-9}, "below which float64 keeps no inverse"),
        ({"variant": "full", "ridge_lambda": 0.0}, "ridge_lambda=0 with variant='full': the matrix is singular"),
        ({"fisher_pool": "C"}, "fisher_pool='C'"),
        ({"fisher_source": "running"}, "fisher_source='running'"),
        ({"aggregate": "max"}, "aggregate='max'"),
        ({"normalize_gj": "per_sample"}, "normalize_gj='per_sample'"),
        ({"contribution_normalisation": "mean"}, "contribution_normalisation='mean'"),
        ({"normalize_gj": "per_token", "variant": "signed"}, "normalize_gj='per_token' with variant='signed': only"),
        ({"epsilon": -1e-9}, "epsilon is -1e-09; expected a finite number of at least 0"),
        ({"ridge_lambda": float("inf")}, "ridge_lambda is inf"),
        ({"ridge_lambda_rel": float("nan")}, "ridge_lambda_rel is nan"),
        ({"tile_elements": 0}, "tile_elements is 0; expected at least 1"),
    ],
)
def test_option_without_meaning_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        ScoreOptions(**options)


@pytest.mark.parametrize(
    ("options", "absolute"),
    [({}, False), ({"epsilon": 0.0}, True), ({"ridge_lambda": 1e-8}, True), ({"ridge_lambda_rel": 0.1}, False)],
)
def test_giving_an_absolute_constant_chooses_absolute_damping(options, absolute):
    assert ScoreOptions(**options).absolute_damping == absolute


# Tiles


@pytest.mark.parametrize("include_bias", [False, True])
@pytest.mark.parametrize("tile_elements", [1, 12, 13, 100, 2**22])
def test_tiles_hold_every_number_of_a_slice_once(collected, tile_elements, include_bias):
    collector, (expected, _) = collected
    members = collector.samples("a")
    options = ScoreOptions(tile_elements=tile_elements, include_bias=include_bias)
    for layout, projection, unit in every_slice(collector):
        tiles = list(scoring.slice_tiles(members, projection, unit, options))
        found = torch.cat([tile for tile in tiles], dim=1)
        assert found.shape == (3, scoring.num_parameters(projection, options))
        for row, grads in zip(found, expected, strict=True):
            truth = reference.cut(grads, layout, projection.block, unit, include_bias)
            bound = 1e-11 * np.abs(truth).max()
            assert np.abs(np.sort(row.numpy()) - np.sort(truth)).max() <= bound  # tiles are in an order of their own


@given(tile_elements=st.integers(1, 2000))
def test_no_tile_is_larger_than_allowed(tile_elements):
    collector = cached_collector()
    members = collector.samples("a")
    for _, projection, unit in every_slice(collector)[:8]:
        one_column = len(members) * projection.width  # the smallest tile there is
        for tile in scoring.slice_tiles(members, projection, unit, ScoreOptions(tile_elements=tile_elements)):
            assert tile.numel() <= max(tile_elements, one_column)


def cached_collector(_kept=[]):  # noqa: B006  one collection for all examples of Hypothesis
    if not _kept:
        _kept.append(collect(build_model("llama"), build_batch(LENGTHS)))
    return _kept[0]


@pytest.mark.parametrize(("model_dtype", "tile_dtype"), [
    (torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32),
])  # fmt: skip
def test_tiles_are_in_the_model_precision_but_never_below_float32(model_dtype, tile_dtype):
    collector = collect(build_model("gpt2", dtype=model_dtype), build_batch(LENGTHS))
    projection = collector.config.layers[0].projection("Q")
    tiles = list(scoring.slice_tiles(collector.samples("a"), projection, 0, ScoreOptions()))
    assert {tile.dtype for tile in tiles} == {tile_dtype}


# The mean of F over a block


@pytest.mark.parametrize("source", fisher.FISHER_SOURCES)
@pytest.mark.parametrize("normalisation", ["tokens", "none"])
@pytest.mark.parametrize("include_bias", [False, True])
def test_block_mean_is_the_mean_of_fisher_over_all_heads(collected, source, normalisation, include_bias):
    collector, (grads, tokens) = collected
    options = ScoreOptions(fisher_source=source, contribution_normalisation=normalisation, include_bias=include_bias)
    side = Side(collector.samples("a"), [0], options)
    weights = fisher.sample_weights(3, source).numpy()
    for layout in collector.config.layers:
        for projection in layout.projections:
            units = range(projection.num_units)
            parts = [
                np.concatenate([reference.cut(one, layout, projection.block, unit, include_bias) for unit in units])
                for one in grads
            ]
            scale = tokens if normalisation == "tokens" else [1, 1, 1]
            means = [(part**2).mean() / count for part, count in zip(parts, scale, strict=True)]
            for _ in range(2):  # the second time from the cached norms
                found = side.block_mean(layout, projection, options)
                assert found == pytest.approx(float(weights @ np.array(means)), rel=1e-10)


# Slices


def score(collector, block, unit, task_b="a", **options):
    options = ScoreOptions(**options)
    sides = [Side(collector.samples(task), range(len(collector.samples(task))), options) for task in ("a", task_b)]
    layout = collector.config.layers[0]
    return scoring.score_slice(*sides, layout, layout.projection(block), unit, options)


def test_rows_choose_samples_and_fisher_takes_all(collected):
    collector, _ = collected
    whole = score(collector, "V", 1).scores
    options = ScoreOptions()
    members = collector.samples("a")
    layout = collector.config.layers[0]
    part = scoring.score_slice(
        Side(members, [2], options), Side(members, [0, 1], options), layout, layout.projection("V"), 1, options
    )
    assert torch.allclose(part.scores, whole[[2]][:, [0, 1]], rtol=1e-13)


def test_health_is_that_of_the_fisher_and_the_damping_that_acted(collected):
    collector, (grads, tokens) = collected
    layout = collector.config.layers[0]
    cut = np.array([reference.cut(one, layout, "V", 1) for one in grads])
    values = (cut**2 / np.array(tokens)[:, None]).mean(0)
    health = score(collector, "V", 1, epsilon=1e-4, ridge_lambda=1e-3).health
    damped = np.maximum(values, 1e-4) + 1e-3
    assert health["fisher_min"] == pytest.approx(values.min(), rel=1e-9)
    assert health["fisher_max"] == pytest.approx(values.max(), rel=1e-9)
    assert health["share_below_epsilon"] == pytest.approx((values < 1e-4).mean())
    lower = np.sort(values)[(values.size - 1) // 2]  # torch's median is the lower of two
    assert health["fisher_median"] == pytest.approx(lower, rel=1e-9)
    assert health["damping"] == pytest.approx(np.sort(damped - values)[(values.size - 1) // 2], rel=1e-9)
    assert health["fisher_over_damped"] == pytest.approx(np.sort(values / damped)[(values.size - 1) // 2], rel=1e-9)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def ablated(request):
    """Two tasks of a model whose first kv group feeds nothing in layer 0: three of its six output slices are zero."""
    model = build_model("llama", dtype=request.param, layers=1)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, :12] = 0
    collector = collect(model, build_batch(LENGTHS))
    collector.collect_fisher(model, build_batch((6, 5), seed=3), "b", progress=False)
    return collector


@pytest.mark.parametrize("pool", ["A", "B", "pooled"])
@pytest.mark.parametrize("variant", ["unsigned", "natural", "signed", "symmetric", "dot"])
def test_dead_slices_score_exactly_zero(ablated, variant, pool):
    for block, unit in (("Q", 0), ("Q", 2), ("K", 0), ("V", 0)):
        assert not score(ablated, block, unit, "b", variant=variant, fisher_pool=pool).scores.any()
    for block, unit in (("Q", 3), ("K", 1), ("V", 1), ("O", 0)):
        assert score(ablated, block, unit, "b", variant=variant, fisher_pool=pool).scores.all()


@pytest.mark.parametrize("source", fisher.FISHER_SOURCES)
@pytest.mark.parametrize("pool", ["A", "B", "pooled"])
@pytest.mark.parametrize("variant", ["unsigned", "natural", "signed", "symmetric", "dot"])
def test_dead_block_scores_exactly_zero(variant, pool, source):
    """The only gradient of A, or of B, vanishes on a whole block: 0 / 0 is 0 here."""
    collector = collect(build_model("gpt2", layers=1, dtype=torch.float32), build_batch(LENGTHS))
    dead = [silenced(one) for one in collector.samples("a")]
    options = ScoreOptions(variant=variant, fisher_pool=pool, fisher_source=source)
    layout = collector.config.layers[0]
    # Large enough that a number divided by the smallest normal one leaves the range of float32.
    alive = Side([rescaled(one, 1e3) for one in collector.samples("a")], range(3), options)
    for sides in ((alive, Side(dead, range(3), options)), (Side(dead, range(3), options), alive)):
        result = scoring.score_slice(*sides, layout, layout.projection("V"), 0, options)
        assert not result.scores.any()


def silenced(sample):
    factors = {
        name: gradients.Factors(pair.inputs, torch.zeros_like(pair.deltas)) for name, pair in sample.factors.items()
    }
    return dataclasses.replace(sample, factors=factors, squared_norms={})


def rescaled(sample, factor):
    factors = {name: gradients.Factors(pair.inputs, pair.deltas * factor) for name, pair in sample.factors.items()}
    return dataclasses.replace(sample, factors=factors, squared_norms={})


@pytest.mark.parametrize("variant", ["unsigned", "natural", "signed", "symmetric"])
def test_squares_out_of_range_are_an_error_not_a_number(collected, variant):
    collector, _ = collected
    options = ScoreOptions(variant=variant)
    layout = collector.config.layers[0]
    members = [rescaled(one, 1e160) for one in collector.samples("a")]
    side = Side(members, range(3), options)
    with pytest.raises(NonFiniteError, match=r"layer 0, block V, slice 1 are NaN or infinite.* torch.float64"):
        scoring.score_slice(side, side, layout, layout.projection("V"), 1, options)


def test_noise_in_a_slice_is_not_normalised_up_to_that_of_its_neighbours(collected):
    """Rounding leaves 1e-16 where a gradient cancels exactly; beside live heads that must not score as they do."""
    collector, _ = collected
    options = ScoreOptions(variant="natural")  # normalised by both Fishers: the variant that noise could hide in
    layout = collector.config.layers[0]
    projection = layout.projection("V")
    start, stop = projection.interval(0)

    def quieted(sample):
        pair = sample.factors[projection.module_name]
        deltas = pair.deltas.clone()
        deltas[:, start:stop] *= 1e-16
        factors = sample.factors | {projection.module_name: gradients.Factors(pair.inputs, deltas)}
        return dataclasses.replace(sample, factors=factors, squared_norms={})

    side = Side([quieted(one) for one in collector.samples("a")], range(3), options)
    quiet, live = (
        scoring.score_slice(side, side, layout, projection, unit, options).scores.max().item() for unit in (0, 1)
    )
    assert 0 <= quiet < 1e-20 * live
