"""The loop of the first drafts: every pair, layer, head and block by itself, from dictionaries of full gradients.

For one pair the slice of the contribution, of the gradient and of F are cut out, F is floored and raised, and one number is
summed; with diagnostics, statistics of the three slices are kept beside it. A part of the pairs is timed, all heads and
blocks of each, and the time is taken times the number of pairs: the loop does the same for every one. Gradients,
contributions and F are there before the clock starts; ours materialises its slices inside it.
"""

import random

import torch

import qkov

from . import clock
from .goals import DisagreementError, Measured, require_agreement
from .scoring import collected, forget

FLOOR, RIDGE = 1e-10, 1e-8
BOUND = 1e-5


def slice_score(contribution, grad, fisher, where, *, diagnostics):
    """Score of one pair on one slice, a float, with or without statistics of the slices.

    Args:
        contribution, grad, fisher: Full parameter tensors. where: A ``BlockHeadSlice``.
    """
    rows, columns = (slice(None) if one is None else slice(*one) for one in (where.row_slice, where.col_slice))
    c, g, f = (tensor[rows, columns] for tensor in (contribution, grad, fisher))
    score = (c / (f.clamp_min(FLOOR) + RIDGE) * g.abs()).mean().item()
    return (score, health_of(c, g, f)) if diagnostics else (score, None)


def health_of(c, g, f):
    """Size, spread and degenerate entries of the three slices, as plain numbers."""
    flat = f.reshape(-1)
    return {
        "fisher": [flat.min().item(), flat.max().item(), flat.mean().item(), flat.median().item()],
        "below floor": (flat < FLOOR).float().mean().item(),
        "contribution": [c.norm().item(), c.max().item(), (c == 0).float().mean().item()],
        "gradient": [g.norm().item(), g.abs().max().item(), (g == 0).float().mean().item()],
        "finite": all(torch.isfinite(one).all().item() for one in (c, g, f)),
    }


def looped(config, pairs, contributions, grads, fisher, *, diagnostics):
    """Scores ``{(i, j, layer, block, head): number}`` of some pairs, one slice at a time."""
    scores, health = {}, {}
    for i, j in pairs:
        for layout in config.layers:
            for head in range(layout.num_heads):
                for projection in layout.projections:
                    where = projection.slice_of(layout.unit(projection.block, head))
                    name = where.param_name
                    key = i, j, layout.layer, projection.block, head
                    scores[key], health[key] = slice_score(
                        contributions[i][name], grads[j][name], fisher[name], where, diagnostics=diagnostics
                    )
    return scores


def ours(collector):
    """All pairs, with the same absolute damping."""
    metric = qkov.QKOVInterferenceMetric(
        collector.config, collector, epsilon=FLOOR, ridge_lambda=RIDGE, min_samples_for_fisher=1
    )
    return metric.compute_heatmap("a", "b", progress=False)


def dictionaries(collector, rows_a, rows_b):
    """What the loop reads: contributions and gradients of some samples, and F of all samples of A."""
    ids = collector.sample_ids("a")
    fisher, contributions = {}, {}
    for row, sample_id in enumerate(ids):
        own = {name: value.clone() for name, value in collector.contribution_cache["a"][f"a_{sample_id}"].items()}
        for name, value in own.items():
            fisher[name] = fisher.get(name, 0) + value / len(ids)
        if row in rows_a:
            contributions[row] = own
    grads = {row: dict(collector.get_sample_gradients("b", collector.sample_ids("b")[row])) for row in rows_b}
    return contributions, grads, fisher


def measure(sizes, say=None):
    """Time ours on all pairs, and both loops on some."""
    n = 2 * sizes.samples
    collector = collected(sizes, n)
    config = collector.config
    chosen = random.Random(0)
    rows_a, rows_b = (chosen.sample(range(n), min(n, max(2, sizes.pairs // 3))) for _ in "ab")
    pairs = [(chosen.choice(rows_a), chosen.choice(rows_b)) for _ in range(sizes.pairs)]
    read = dictionaries(collector, rows_a, rows_b)
    fewer = pairs[: max(2, len(pairs) // 4)]
    variants = {
        "ours": clock.Timed(ours, lambda: forget(collector)),
        "loop": clock.Timed(lambda: looped(config, pairs, *read, diagnostics=False)),
        "with diagnostics": clock.Timed(lambda: looped(config, fewer, *read, diagnostics=True)),
    }
    looped(config, pairs[:1], *read, diagnostics=True)
    seconds, results = clock.interleaved(variants, repeats=sizes.repeats, say=say)
    keys = list(results["loop"])
    heatmap = results["ours"]
    found = [float(heatmap[block]["scores"][i, j, layer, head]) for i, j, layer, block, head in keys]
    try:
        difference = require_agreement(found, [results["loop"][key] for key in keys], BOUND, "scores of the loop")
    except DisagreementError as error:
        return Measured({}, {}, wrong=dict.fromkeys(("pair-loop", "pair-loop-diagnostics"), str(error)))
    said = (
        f"one layer, d {sizes.hidden}, all {sizes.heads} heads and four blocks, {n} x {n} samples of T = {sizes.tokens}; the "
        f"loop was timed on {{}} of {n * n:,} pairs and multiplied; scores agree to {difference:.1g}"
    )
    return Measured(
        values={
            "pair-loop": clock.ratio(seconds, "loop", "ours") * n * n / len(pairs),
            "pair-loop-diagnostics": clock.ratio(seconds, "with diagnostics", "ours") * n * n / len(fewer),
        },
        conditions={"pair-loop": said.format(len(pairs)), "pair-loop-diagnostics": said.format(len(fewer))},
        details={"seconds": seconds, "pairs": n * n, "pairs timed": [len(pairs), len(fewer)], "difference": difference},
    )
