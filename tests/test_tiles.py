"""Tests of tiles, of one task's share in them, and of how their products are added: fast, fixed, in blocks of samples."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given

from qkov import factor_tiles, formula, scoring, tile_halves, tiles
from qkov.scoring import ScoreOptions, Side
from tests.builders import build_batch, build_model, collect

LENGTHS = {"a": [9, 6, 8, 7, 9, 6, 6], "b": [7, 8, 5, 8]}


def samples_of(task, family="llama", dtype=torch.float64, _kept={}):  # noqa: B006  collected once
    if (task, family, dtype) not in _kept:
        model = build_model(family, dtype=dtype)
        collector = collect(model, build_batch(LENGTHS[task], seed=len(task + family)))
        _kept[task, family, dtype] = collector.config, collector.samples("a")
    return _kept[task, family, dtype]


def sides_of(options, rows_a=None, rows_b=None, **which):
    (config, a), (_, b) = samples_of("a", **which), samples_of("b", **which)
    side_a = Side(a, list(range(len(a))) if rows_a is None else rows_a, options)
    return config, side_a, Side(b, list(range(len(b))) if rows_b is None else rows_b, options)


def plain_scores(config, side_a, side_b, block, unit, options):
    """The same slice by the plain route."""
    layout = config.layers[0]
    projection = layout.projection(block)
    total = sum(
        (one.left @ one.right.T).double()
        for one in factor_tiles.factor_tiles(side_a, side_b, layout, projection, unit, options)
    )
    return formula.aggregate_scores(total, scoring.num_parameters(projection, options), options.aggregate)


def score(config, side_a, side_b, block, unit, options):
    layout = config.layers[0]
    return scoring.score_slice(side_a, side_b, layout, layout.projection(block), unit, options).scores


@given(
    variant=st.sampled_from(formula.VARIANTS),
    pool=st.sampled_from(formula.FISHER_POOLS),
    source=st.sampled_from(["contributions", "ema", "head"]),
    normalisation=st.sampled_from(formula.NORMALISATIONS),
    tiling=st.sampled_from(["fast", "fixed"]),
    tile_elements=st.sampled_from([1, 500, 2**22]),
    sample_block=st.sampled_from([None, 1, 2, 3, 5]),
    include_bias=st.booleans(),
    block=st.sampled_from("QKVO"),
    rows_a=st.permutations(range(7)),
    num_a=st.integers(1, 7),
    rows_b=st.sampled_from([[0, 1, 2, 3], [3, 0], [2]]),
)
@example("unsigned", "A", "contributions", "tokens", "fast", 2**22, None, False, "Q", [6, 5, 4, 3, 2, 1, 0], 7, [3, 0])
def test_every_way_to_cut_gives_the_scores_of_the_plain_route(
    variant,
    pool,
    source,
    normalisation,
    tiling,
    tile_elements,
    sample_block,
    include_bias,
    block,
    rows_a,
    num_a,
    rows_b,
):
    options = ScoreOptions(
        variant=variant, fisher_pool=pool, fisher_source=source, contribution_normalisation=normalisation, tiling=tiling,
        tile_elements=tile_elements, sample_block=sample_block, include_bias=include_bias,
    )  # fmt: skip
    where = sides_of(options, list(rows_a)[:num_a], rows_b, family="gpt2" if include_bias else "llama")
    expected = plain_scores(*where, block, 0, options)
    found = score(*where, block, 0, options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


def test_float32_agrees_with_the_plain_route_in_float64():
    options = ScoreOptions(variant="unsigned", fisher_pool="pooled")
    found = score(*sides_of(options, dtype=torch.float32), "Q", 1, options)
    expected = plain_scores(*sides_of(options, dtype=torch.float64), "Q", 1, options)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variants_scored_together_are_those_scored_alone(dtype):
    options = ScoreOptions(fisher_pool="pooled", tile_elements=300)
    config, side_a, side_b = sides_of(options, dtype=dtype)
    layout = config.layers[0]
    where = side_a, side_b, layout, layout.projection("V"), 0
    found = scoring.score_variants(*where, options, formula.VARIANTS)
    assert tuple(found) == formula.VARIANTS
    for variant, result in found.items():
        alone = scoring.score_slice(*where, dataclasses.replace(options, variant=variant))
        scale = float(alone.scores.abs().max())
        torch.testing.assert_close(
            result.scores, alone.scores, rtol=0, atol=(1e-6 if dtype == torch.float32 else 1e-14) * scale
        )
        assert result.health == pytest.approx(alone.health, rel=1e-6 if dtype == torch.float32 else 1e-12)


def test_variants_share_the_gradients(monkeypatch):
    written, real = [], tiles.SliceFactors.write
    monkeypatch.setattr(tiles.SliceFactors, "write", lambda *rest: written.append(rest[1:3]) or real(*rest))
    options = ScoreOptions(fisher_pool="pooled")
    config, side_a, side_b = sides_of(options)
    where = side_a, side_b, config.layers[0], config.layers[0].projection("Q"), 0
    scoring.score_slice(*where, options)
    alone, written[:] = len(written), []
    scoring.score_variants(*where, options, formula.VARIANTS)
    assert len(written) == alone == 2


@pytest.mark.parametrize("variant", formula.VARIANTS)
@pytest.mark.parametrize("sample_block", [None, 2])
@pytest.mark.parametrize("rows", [None, [4, 1]])
def test_marginals_are_the_means_of_the_scores(variant, sample_block, rows):
    options = ScoreOptions(variant=variant, fisher_pool="pooled", tile_elements=500, sample_block=sample_block)
    config, side_a, side_b = sides_of(options, rows)
    layout = config.layers[0]
    found = scoring.score_marginals(side_a, side_b, layout, layout.projection("O"), 1, options)
    scores = score(config, side_a, side_b, "O", 1, options)
    scale = float(scores.abs().max())
    torch.testing.assert_close(found.by_a, scores.mean(1), rtol=1e-11, atol=1e-13 * scale)
    torch.testing.assert_close(found.by_b, scores.mean(0), rtol=1e-11, atol=1e-13 * scale)
    layout_scores = scoring.score_slice(side_a, side_b, layout, layout.projection("O"), 1, options)
    assert found.health == pytest.approx(layout_scores.health, rel=1e-12)
    assert found.num_parameters == layout_scores.num_parameters


def test_marginals_hold_the_lift_of_the_whole_slice():
    options = ScoreOptions(fisher_pool="pooled", tile_elements=500)
    config, side_a, side_b = sides_of(options, [3, 0, 5], [1, 2])
    layout = config.layers[0]
    found = scoring.score_marginals(side_a, side_b, layout, layout.projection("Q"), 0, options)
    whole = dataclasses.replace(options, tile_elements=2**22)
    grads = [next(scoring.slice_tiles(side.members, layout.projection("Q"), 0, whole)) for side in (side_a, side_b)]
    fishers = [
        (formula.normalise(g, side.tokens) ** 2).mean(0) for g, side in zip(grads, (side_a, side_b), strict=True)
    ]
    mean = sum(side.block_mean(layout, layout.projection("Q"), options) for side in (side_a, side_b)) / 2
    damped = formula.damp(sum(fishers) / 2, mean)
    torch.testing.assert_close(
        found.lift, formula.lift(grads[0][[3, 0, 5]], grads[1][[1, 2]], damped), rtol=1e-10, atol=0
    )


def test_no_pair_is_formed_for_marginals(monkeypatch):
    monkeypatch.setattr(scoring.formula, "pair_scores", None)
    options = ScoreOptions()
    config, side_a, side_b = sides_of(options)
    layout = config.layers[0]
    scoring.score_marginals(side_a, side_b, layout, layout.projection("Q"), 0, options)
    with pytest.raises(TypeError):
        scoring.score_slice(side_a, side_b, layout, layout.projection("Q"), 0, options)


# Fixed tiling


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("variant", formula.VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_fixed_tiling_a_score_does_not_depend_on_what_else_is_scored(family, variant, dtype):
    options = ScoreOptions(variant=variant, fisher_pool="pooled", tiling="fixed")
    which = {"family": family, "dtype": dtype}
    whole = score(*sides_of(options, **which), "V", 1, options)
    for rows_a, rows_b in (([2], [3]), ([5, 0, 3], [1]), ([6, 5, 4, 3, 2, 1, 0], [3, 2, 0])):
        part = score(*sides_of(options, rows_a, rows_b, **which), "V", 1, options)
        assert torch.equal(part, whole[rows_a][:, rows_b])


def test_with_fixed_tiling_many_samples_and_blocks_change_no_bit():
    generator = torch.Generator().manual_seed(3)
    config, some = samples_of("a", dtype=torch.float32)
    many = []
    for number in range(150):  # more than two tiles of samples
        one = some[number % len(some)]
        factors = {
            name: dataclasses.replace(pair, deltas=pair.deltas * torch.rand((), generator=generator))
            for name, pair in one.factors.items()
        }
        many.append(dataclasses.replace(one, sample_id=number, factors=factors, squared_norms={}))
    found = []
    for block in (None, 64, 100):
        options = ScoreOptions(tiling="fixed", sample_block=block)
        sides = [Side(many, list(range(150)), options) for _ in range(2)]
        found.append(score(config, *sides, "Q", 0, options))
        rows = [149, 3, 70]
        part = score(config, Side(many, rows, options), Side(many, rows[::-1], options), "Q", 0, options)
        assert torch.equal(part, found[0][rows][:, rows[::-1]])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_fixed_tiles_have_one_shape_whatever_is_scored(monkeypatch):
    shapes, real = set(), formula.pair_scores
    monkeypatch.setattr(
        formula, "pair_scores", lambda left, right: shapes.add((left.shape, right.shape)) or real(left, right)
    )
    options = ScoreOptions(tiling="fixed")
    for rows in ([0], [0, 3, 4]):
        score(*sides_of(options, rows), "Q", 0, options)
    width = samples_of("a")[0].layers[0].projection("Q").width
    assert shapes == {((64, width * 24), (64, width * 24))}


# Stacks and buffers


def test_projections_that_read_one_tensor_share_its_stack():
    options = ScoreOptions()
    config, side_a, side_b = sides_of(options)
    layout, held = config.layers[0], []
    for block in "QKVO":
        scoring.score_slice(side_a, side_b, layout, layout.projection(block), 0, options)
        held.append(side_a.stacks["own"].groups)
    assert held[0] is held[1] is held[2]
    assert held[3] is not held[0]


def test_samples_of_equal_length_are_stacked_and_others_are_not():
    options = ScoreOptions()
    config, side_a, _ = sides_of(options)
    layout = config.layers[0]
    buffers = tiles.Buffers(torch.float64, "cpu")
    stacks = tiles.Stacks(side_a.members, layout.projection("Q"), options, torch.float64, buffers)
    lengths = [len(one.factors[layout.projection("Q").module_name].deltas) for one in side_a.members]
    assert [lengths[place] for place in stacks.order] == sorted(lengths)
    assert [len(rows) for rows, _ in stacks.groups] == [lengths.count(length) for length in sorted(set(lengths))]


def test_large_stacks_are_not_made(monkeypatch):
    options = ScoreOptions()
    where = sides_of(options)
    expected = score(*where, "Q", 0, options)
    monkeypatch.setattr(tiles.Stacks, "_stack", None)
    options = ScoreOptions(stacked_bytes=100)
    fresh = [Side(side.members, side.rows, options) for side in where[1:]]
    torch.testing.assert_close(score(where[0], *fresh, "Q", 0, options), expected, rtol=1e-12, atol=0)


def test_elementwise_steps_take_a_few_rows_at_a_time(monkeypatch):
    options = ScoreOptions(fisher_pool="pooled")
    where = sides_of(options)
    expected, largest, real = score(*where, "Q", 0, options), [], formula.contribution
    monkeypatch.setattr(tiles, "CHUNK", 200)
    monkeypatch.setattr(formula, "contribution", lambda h: largest.append(h.numel()) or real(h))
    torch.testing.assert_close(score(*where, "Q", 0, options), expected, rtol=1e-12, atol=0)
    assert max(largest) <= max(200, expected.new_zeros(0).numel() + where[0].layers[0].projection("Q").width * 24)


def test_buffers_are_used_again():
    buffers = tiles.Buffers(torch.float32, "cpu")
    first = buffers.get("one", 3, 4)
    assert buffers.get("one", 2, 5).data_ptr() == first.data_ptr()
    assert buffers.get("other", 3, 4).data_ptr() != first.data_ptr()
    assert buffers.get("one", 5, 5).shape == (5, 5)


def test_the_rows_of_a_half_come_back_in_the_order_asked_for():
    options = ScoreOptions()
    config, side_a, _ = sides_of(options, [6, 0, 2])
    half = tile_halves.Half(
        side_a, "own", config.layers[0].projection("Q"), 0, options, torch.float64, raw=True, in_place=False
    )
    part = next(half.parts((0, 24)))
    rows = torch.cat(list(part.chunks()))
    truth = torch.cat(list(scoring.slice_tiles(side_a.members, config.layers[0].projection("Q"), 0, options)), 1)
    np.testing.assert_allclose(half.in_order(rows), truth[[6, 0, 2]], rtol=1e-12)
