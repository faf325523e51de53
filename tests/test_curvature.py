"""Variants "full" and "kfac" against p x p matrices formed and solved, on random slices and on collected models."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import qkov
from qkov import curvature, errors, formula, full_fisher, geometry, gradients, kfac, reference, samples, scoring
from tests.builders import build_batch, build_model

POOLS = ("A", "B", "pooled")
WIDTH, OTHER = 2, 3


def a_slice(bias=True):
    """One head of a projection of its own: 2 of 4 rows, 3 columns, and a bias."""
    query = geometry.Projection(
        "Q", "q", "q.weight", "q.bias" if bias else None, (4, OTHER), 0, "output", (0, 2), WIDTH
    )
    return SimpleNamespace(layer=0, projections=(query,)), query


def random_samples(count, seed, *, tokens=(1, 2, 4), scale=1.0):
    """Samples with the factors of one module, a few tokens each."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    members = []
    for row in range(count):
        length = tokens[row % len(tokens)]
        factors = {"q": gradients.Factors(draw(length, OTHER), scale * draw(length, 4))}
        members.append(samples.Sample(row, None, length + 1, str((seed, row)), factors))
    return tuple(members)


def slices(members, unit, options):
    """``h`` of a slice, ``[samples, p]``, and what it is made of, written out."""
    rows, tokens = [], []
    for one in members:
        pair, root = one.factors["q"], one.num_tokens**0.5 if options.contribution_normalisation == "tokens" else 1.0
        u, v = pair.deltas[:, 2 * unit : 2 * unit + 2], pair.inputs
        v = torch.cat([v, torch.ones(len(v), 1)], 1) if options.include_bias else v
        rows.append(sum(torch.outer(a, b) for a, b in zip(u, v, strict=True)).flatten() / root)
        tokens.append((u, v, 1 / root**2))
    return torch.stack(rows), tokens


def pool_weights(side_a, side_b, pool):
    """Samples and weights that make F."""
    parts = {"A": [(side_a, 1.0)], "B": [(side_b, 1.0)], "pooled": [(side_a, 0.5), (side_b, 0.5)]}[pool]
    return [(one, float(w) * share) for side, share in parts
            for one, w in zip(side.fisher_members, side.weights, strict=True)]  # fmt: skip


def dense_scores(side_a, side_b, unit, options):
    """The p x p matrix, formed and solved."""
    h_a, h_b = (slices([side.members[row] for row in side.rows], unit, options)[0] for side in (side_a, side_b))
    made = pool_weights(side_a, side_b, options.fisher_pool)
    rows, tokens = slices([one for one, _ in made], unit, options)
    weights = torch.tensor([w for _, w in made], dtype=torch.float64)
    if options.variant == "full":
        matrix = sum(w * torch.outer(h, h) for w, h in zip(weights, rows, strict=True))
        mean = matrix.trace() / min(len(rows), len(matrix))
    else:
        own = sum(w * s * torch.outer(u, u) for w, (us, _, s) in zip(weights, tokens, strict=True) for u in us)
        mass = sum(w * s * len(us) for w, (us, _, s) in zip(weights, tokens, strict=True))
        other = sum(w * s * torch.outer(v, v) for w, (_, vs, s) in zip(weights, tokens, strict=True) for v in vs) / mass
        matrix = torch.kron(own, other)
        mean = matrix.trace() / len(matrix)
    damping = options.ridge_lambda_rel * mean if options.ridge_lambda is None else options.ridge_lambda
    total = h_a @ torch.linalg.solve(matrix + damping * torch.eye(len(matrix), dtype=torch.float64), h_b.T)
    return total / (len(matrix) if options.aggregate == "mean" else 1)


def sides_of(num_a, num_b, seed, options, *, scale_b=1.0):
    members = random_samples(num_a, seed), random_samples(num_b, seed + 1000, scale=scale_b)
    return [scoring.Side(part, list(range(len(part)))[::2], options) for part in members]


@given(
    num_a=st.integers(1, 14),
    num_b=st.integers(1, 14),
    seed=st.integers(0, 999),
    variant=st.sampled_from(formula.MATRIX_VARIANTS),
    pool=st.sampled_from(POOLS),
    source=st.sampled_from(["contributions", "ema"]),
    normalisation=st.sampled_from(formula.NORMALISATIONS),
    aggregate=st.sampled_from(formula.AGGREGATES),
    include_bias=st.booleans(),
    damping=st.sampled_from([{}, {"ridge_lambda_rel": 0.01}, {"ridge_lambda": 0.5}]),
    tile_elements=st.sampled_from([1, 10, 2**22]),
)
@example(1, 1, 0, "full", "pooled", "ema", "tokens", "sum", True, {}, 1)
@example(14, 1, 0, "full", "A", "contributions", "none", "mean", False, {"ridge_lambda_rel": 1e-3}, 10)
def test_scores_equal_the_matrix_formed_and_solved(
    num_a, num_b, seed, variant, pool, source, normalisation, aggregate, include_bias, damping, tile_elements
):
    options = scoring.ScoreOptions(
        variant=variant, fisher_pool=pool, fisher_source=source, contribution_normalisation=normalisation,
        aggregate=aggregate, include_bias=include_bias, tile_elements=tile_elements, **damping,
    )  # fmt: skip
    layout, query = a_slice()
    sides = sides_of(num_a, num_b, seed, options, scale_b=3.0)
    for unit in (0, 1):
        found = curvature.score_slice(*sides, layout, query, unit, options)
        expected = dense_scores(*sides, unit, options)
        assert (found.scores - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert found.num_parameters == WIDTH * (OTHER + include_bias)


@pytest.mark.parametrize("variant", formula.MATRIX_VARIANTS)
def test_fisher_of_other_samples_equals_the_matrix_formed_and_solved(variant):
    options = scoring.ScoreOptions(variant=variant)
    layout, query = a_slice()
    a, b, other = (random_samples(5, seed) for seed in (1, 2, 3))
    sides = scoring.Side(a, [0, 3], options, other), scoring.Side(b, [1, 2, 4], options)
    found = curvature.score_slice(*sides, layout, query, 1, options).scores
    expected = dense_scores(*sides, 1, options)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("variant", formula.MATRIX_VARIANTS)
def test_one_task_on_both_sides_counts_its_samples_once(variant):
    options = scoring.ScoreOptions(variant=variant, fisher_pool="pooled")
    layout, query = a_slice()
    side = scoring.Side(random_samples(4, 1), [0, 1, 2, 3], options)
    pooled = curvature.score_slice(side, side, layout, query, 0, options).scores
    alone = scoring.ScoreOptions(variant=variant)
    np.testing.assert_allclose(pooled, curvature.score_slice(side, side, layout, query, 0, alone).scores, rtol=1e-12)


def grid_samples(us, vs):
    """One sample of one token for every pair of a u and a v."""
    return tuple(
        samples.Sample(f"{i} {j}", None, 1, f"{i} {j}", {"q": gradients.Factors(v[None], torch.cat([u, u])[None])})
        for i, u in enumerate(us)
        for j, v in enumerate(vs)
    )


def sign_samples(us, vs):
    """Samples of two tokens in which the second token's u takes both signs, so that cross terms cancel."""
    found = []
    for i, u in enumerate(us):
        for j, v in enumerate(vs):
            for k, w in enumerate(us):
                for m, x in enumerate(vs):
                    for sign in (1.0, -1.0):
                        pair = torch.stack([u, sign * w])
                        factors = {"q": gradients.Factors(torch.stack([v, x]), torch.cat([pair, pair], 1))}
                        found.append(samples.Sample(f"{i} {j} {k} {m} {sign}", None, 1, "", factors))
    return tuple(found)


@pytest.mark.parametrize("make", [grid_samples, sign_samples])
@pytest.mark.parametrize(("num_u", "num_v"), [(4, 5), (1, 5), (4, 1)])
def test_kfac_is_the_full_fisher_where_tokens_are_independent(make, num_u, num_v):
    generator = torch.Generator().manual_seed(num_u)
    us, vs = (
        torch.randn(n, size, generator=generator, dtype=torch.float64) for n, size in ((num_u, WIDTH), (num_v, 3))
    )
    layout, query = a_slice(bias=False)
    members = make(us, vs)
    found = {}
    for variant in formula.MATRIX_VARIANTS:
        options = scoring.ScoreOptions(variant=variant, ridge_lambda=0.3)
        side = scoring.Side(members, list(range(len(members)))[:12], options)
        found[variant] = curvature.score_slice(side, side, layout, query, 0, options).scores
    np.testing.assert_allclose(found["kfac"], found["full"], rtol=1e-11, atol=1e-11 * found["full"].abs().max())


def test_kfac_is_not_the_full_fisher_of_dependent_tokens():
    layout, query = a_slice(bias=False)
    members = random_samples(6, 1)
    scores = [
        curvature.score_slice(*[scoring.Side(members, [0, 1], options)] * 2, layout, query, 0, options).scores
        for options in (scoring.ScoreOptions(variant=v, ridge_lambda=0.3) for v in formula.MATRIX_VARIANTS)
    ]
    assert (scores[0] - scores[1]).abs().max() > 0.1 * scores[0].abs().max()


def test_kronecker_factors_have_the_scale_of_the_fisher():
    # |u| or |v| constant: tr B x tr A is the trace of the Fisher of tokens taken one by one.
    members = random_samples(6, 5)
    pairs = [
        (one.factors["q"].deltas[:, :2], torch.nn.functional.normalize(one.factors["q"].inputs)) for one in members
    ]
    omega = [0.3, 0.1, 0.2, 0.5, 0.7, 0.1]
    found = kfac.kronecker_factors(pairs, omega)
    expected = sum(w * (u.square().sum(1) * v.square().sum(1)).sum() for w, (u, v) in zip(omega, pairs, strict=True))
    assert float(found.own.trace() * found.other.trace()) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_kronecker_solve_equals_the_dense_power(power):
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(7, n, n, generator=generator, dtype=torch.float64) for n in (2, 3)]
    factors = kfac.KroneckerFactors(*(torch.einsum("sij,skj->ik", draw, draw) for draw in draws))
    grads = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(
        torch.kron(factors.own, factors.other) + 0.2 * torch.eye(6, dtype=torch.float64)
    )
    expected = grads.flatten(1) @ (vectors / values**power @ vectors.T)
    np.testing.assert_allclose(kfac.solve(factors, grads, 0.2, power=power).flatten(1), expected, rtol=1e-11)


def test_tokens_of_the_reference_add_up_to_its_gradients():
    model, batch = build_model("gpt2"), build_batch((5, 3))
    grads, _ = reference.sample_gradients(model, batch)
    config = qkov.QKOVConfig.from_model(model)
    for grad, tokens in zip(grads, reference.token_factors(model, batch, config), strict=True):
        for layout in config.layers:
            for projection in layout.projections:
                inputs, deltas = tokens[projection.module_name]
                start, stop = projection.interval(1)
                own, other = (deltas, inputs) if projection.side == "output" else (inputs, deltas)
                part = own[:, start:stop].T @ other
                part = part if projection.head_axis == 0 else part.T
                expected = reference.cut(grad, layout, projection.block, 1)
                np.testing.assert_allclose(part.ravel(), expected, atol=1e-12 * np.abs(expected).max())


def test_tokens_of_a_factor_do_not_depend_on_what_collection_kept():
    """A prompt reaches no loss through O of the last layer, whether its tokens were kept beside those of V or not."""
    model, batch = build_model("llama", layers=1), build_batch((6, 5))
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :3] = -100
    collector = qkov.FisherCollector()
    collector.collect_fisher(model, batch, "a", progress=False)
    layout = collector.config.layers[0]
    for one in collector.samples("a"):
        counts = {part.block: int(curvature.reached(one, layout, part).sum()) for part in layout.projections}
        assert counts == {
            "Q": one.num_tokens + 2,
            "K": one.num_tokens + 2,
            "V": one.num_tokens + 2,
            "O": one.num_tokens,
        }


# Damping


def test_too_little_damping_is_refused_and_says_why():
    options = scoring.ScoreOptions(variant="full", ridge_lambda_rel=1e-4)
    layout, query = a_slice()
    few, many = (sides_of(count, 3, 1, options) for count in (3, 20))
    with pytest.raises(
        errors.OptionError, match=r"1.0e-04 times.* expected at least 0.001, because 3 samples.* n delta_ij"
    ):
        curvature.score_slice(*few, layout, query, 0, options)
    found = curvature.score_slice(*many, layout, query, 0, options).scores  # more samples than parameters: well posed
    expected = dense_scores(*many, 0, options)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    absolute = scoring.ScoreOptions(variant="full", ridge_lambda=1e-9)
    with pytest.raises(errors.OptionError, match=r"expected at least 0\.001"):
        curvature.score_slice(*few, layout, query, 0, absolute)


@pytest.mark.parametrize("pool", ["A", "pooled"])
def test_what_the_refusal_says_of_little_damping_is_true(pool):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(6, 40, generator=generator, dtype=torch.float64)
    weights = torch.full((6,), 1 / 6 if pool == "pooled" else 1 / 3, dtype=torch.float64)
    weights[3:] *= pool == "pooled"
    within = full_fisher.inverse_products(h @ h.T, weights, 1e-7, [0, 1, 2], [0, 1, 2])
    across = full_fisher.inverse_products(h @ h.T, weights, 1e-7, [0, 1, 2], [3, 4, 5])
    np.testing.assert_allclose(within, torch.diag(1 / weights[:3]), atol=1e-6)
    assert (across.abs().max() < 1e-6) == (pool == "pooled")


def test_a_dead_slice_scores_zero_and_noise_is_not_brought_to_size():
    for variant in formula.MATRIX_VARIANTS:
        options = scoring.ScoreOptions(variant=variant)
        layout, query = a_slice()
        for size in (0.0, 1e-17):
            members = random_samples(4, 1)
            for one in members:
                one.factors["q"].deltas[:, :2] *= size
            side = scoring.Side(members, [0, 1, 2, 3], options)
            assert not curvature.score_slice(side, side, layout, query, 0, options).scores.any()
            assert curvature.score_slice(side, side, layout, query, 1, options).scores.any()


# On models


@pytest.fixture(scope="module")
def collected():
    model, collector = build_model("llama"), qkov.FisherCollector()
    for task, seed in (("a", 1), ("b", 2), ("c", 3)):
        collector.collect_fisher(model, build_batch((5, 7, 4, 6), seed=seed), task, progress=False)
    return collector


def metric(collector, **options):
    return qkov.QKOVInterferenceMetric(collector.config, collector, **{"min_samples_for_fisher": 1, **options})


@pytest.mark.parametrize("variant", formula.MATRIX_VARIANTS)
def test_pair_is_the_entry_of_the_heatmap_and_attributes_say_what_it_is(collected, variant):
    one = metric(collected, variant=variant, fisher_pool="pooled")
    heatmap = one.compute_heatmap("a", "b", progress=False)
    pair = one.compute_sample_pair("a", 2, "b", 1, layer=1, head=4)
    for block, score in pair.items():
        assert score == pytest.approx(heatmap[block]["scores"][2, 1, 1, 4], rel=1e-11)
    assert "do not add up" in heatmap.attributes["additivity_note"]
    assert heatmap.attributes["ridge_lambda_rel"] == 0.1
    assert heatmap.attributes["damping_rule"].startswith("F + ridge" if variant == "full" else "B x A + ridge")
    assert (heatmap.health["Q"]["fisher_min"] >= 0).all()
    assert (heatmap.health["Q"]["fisher_max"] > heatmap.health["Q"]["damping"]).all()


def test_absolute_ridge_that_is_everything_warns(collected):
    with pytest.warns(errors.DampingWarning, match="largest eigenvalue"):
        found = metric(collected, variant="full", ridge_lambda=1e9, aggregate="sum").compute_heatmap(
            "a", "b", progress=False
        )
    dot = metric(collected, variant="dot", aggregate="sum").compute_heatmap("a", "b", progress=False)
    tokens = [np.sqrt([one.num_tokens for one in collected.samples(task)]) for task in "ab"]
    roots = tokens[0][:, None, None, None] * tokens[1][:, None, None]
    np.testing.assert_allclose(found.arrays["V"] * 1e9, dot.arrays["V"] / roots, rtol=1e-6)


@pytest.mark.parametrize("variant", [*formula.VARIANTS, *formula.MATRIX_VARIANTS])
def test_fisher_task_takes_the_place_of_its_own(collected, variant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metric(collected, variant=variant, fisher_tasks={"a": "c"}).compute_heatmap("a", "b", progress=False)
    own = metric(collected, variant=variant).compute_heatmap("a", "b", progress=False)
    assert (np.abs(found.arrays["Q"] - own.arrays["Q"]).max() > 0) == (variant != "dot")
    if variant not in ("natural", "unsigned"):  # A's gradients by C's Fisher: what B of that name would give
        other = metric(collected, variant=variant, fisher_pool="B", fisher_tasks={"b": "c"})
        other = other.compute_heatmap("a", "b", progress=False)
        np.testing.assert_allclose(
            found.arrays["Q"], other.arrays["Q"], rtol=1e-9, atol=1e-9 * np.abs(other.arrays["Q"]).max()
        )
    assert found.attributes["fisher_tasks"] == {"a": "c"}
    assert found.attributes["average_caveat"] == ""
    assert "fisher_tasks" not in own.attributes


def test_shares_of_single_parameters_are_refused(collected):
    heatmap = metric(collected, variant="full").compute_heatmap("a", "b", progress=False)
    with pytest.raises(errors.OptionError, match="is no sum over single parameters"):
        qkov.describe_top_pairs(heatmap, collected)
