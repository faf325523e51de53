"""What is published, computed: averages of slices, Fisher sums, tests of gradients; and again with each misreading."""

import numpy as np

from . import metric, misreadings, models, permutations, slices

MODELS = ("deterministic-llama", "deterministic-gpt2")
VARIANTS = (*metric.SUMS, "full", "kfac")
OPTIONS = {
    "pool A": {"pool": "A"},
    "pool B": {"pool": "B"},
    "ema": {"source": "ema"},
    "one value for each head": {"source": "head"},
    "absolute damping": {"epsilon": 1e-3, "ridge_lambda": 1e-2},
    "B's gradients for each token": {"per_token": True},
    "without normalisation by tokens": {"normalisation": "none"},
    "mean over the slice": {"aggregate": "mean"},
    "with biases": {"include_bias": True},
}
"""Beside the published values, which have a pooled Fisher and sums: every other choice of the text."""
EQUAL = {"a": ([5] * 6, [7] * 9), "b": ([3] * 7, [11] * 5)}
"""Samples of one token each, again and again."""
STEP_SIZE = 0.05
TOP = 10
SEED, PERMUTATIONS, UNPLANTED = 20260101, 499, 5
LABELS = {"a": (0, 0, 1, 2, 3, 3, 4, 5), "r": (0, 1, 1, 2, 3, 4, 4, 5), "b": (0, 1, 2, 2, 3, 4, 5, 5)}


def everything(gradients=None):
    """``{"models": {name: values}, "options": ..., "predicted": ..., "tests": ..., "misread": {name: ...}}``."""
    grads = None if gradients is None else load(gradients)
    collected = {name: collect(name) for name in MODELS}
    found = {
        "models": {name: published(*collected[name]) for name in MODELS},
        "options": {
            name: {said: scores(*collected[name], **given) for said, given in OPTIONS.items()} for name in MODELS
        },
        "predicted": {name: predictions(*collected[name]) for name in MODELS},
        "noise": noise(),
        "misread": {},
    }
    if grads is not None:
        found["tests"] = tests(grads)
    right = found["models"] | {"noise": found["noise"], "tests": found.get("tests")}
    for name, (module, _, _, equation) in misreadings.MISREADINGS.items():
        with misreadings.planted(name):
            found["misread"][name] = right | {"equation": equation} | misread(module, collected, grads)
    return found


def misread(module, collected, grads):
    """Values while a misreading is planted in a module: those that it can touch."""
    if module is permutations:
        return {} if grads is None else {"tests": tests(grads)}
    # Layouts are cut anew: a misreading may be of where heads lie.
    return {model: published(*recut(*collected[model])) for model in MODELS} | {"noise": noise()}


def collect(name):
    """``(model, layers, samples of a, samples of b)``."""
    model = models.build(name)
    layers = slices.of_model(model)
    modules = sorted({one.module for layer in layers for block in layer.values() for one in block})
    of_a, of_b = ([models.sample(model, tokens, modules) for tokens in models.texts(task)] for task in "ab")
    return model, layers, of_a, of_b


def noise():
    """Scores of samples whose tokens are all equal: with nothing to choose between, Q and K have no gradient but rounding."""
    model = models.build("deterministic-llama")
    layers = slices.of_model(model)
    modules = sorted({one.module for layer in layers for block in layer.values() for one in block})
    of_a, of_b = ([models.sample(model, tokens, modules) for tokens in EQUAL[task]] for task in "ab")
    return scores(model, layers, of_a, of_b)


def recut(model, _layers, of_a, of_b):
    """The same samples with slices placed again."""
    return model, slices.of_model(model), of_a, of_b


def published(model, layers, of_a, of_b):
    """What `values.json` holds of a model."""
    found = {"scores": scores(model, layers, of_a, of_b), "fisher": fisher_sums(layers, of_a, of_b)}
    return found | {"top": {block: strongest(model, layers, block, of_a, of_b) for block in slices.BLOCKS}}


def strongest(model, layers, block, of_a, of_b):
    """The strongest pairs of a block by "unsigned"; K and V under the first query head that reads them."""
    config = model.config
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    rows = []
    for number, layer in enumerate(layers):
        largest = largest_means(layer, of_a, of_b)
        for unit, total in enumerate(block_scores("unsigned", layer, block, of_a, of_b, largest)):
            heads = range(config.num_attention_heads)
            readers = [head for head in heads if slices.kv_head(head, len(heads), kv_heads) == unit]
            head = readers[0] if block in "KV" else unit
            rows += [
                {"sample_i": i, "sample_j": j, "layer": number, "head": head, "score": float(total[i, j])}
                for i, j in np.ndindex(total.shape)
            ]
    return sorted(rows, key=lambda one: -one["score"])[:TOP]


def scores(model, layers, of_a, of_b, **options):
    """``{variant: {block: {"mean": [layers][slices], "largest": number}}}``."""
    given = {name: options[name] for name in ("source", "normalisation", "include_bias") if name in options}
    largest = [largest_means(layer, of_a, of_b, **given) for layer in layers]
    found = {}
    for variant in VARIANTS:
        if variant in ("full", "kfac") and options.keys() & {"epsilon", "per_token"}:
            continue  # they have a damping of their own
        if variant in ("full", "kfac") and options.get("source") == "head":
            continue  # one number for a slice is no matrix
        if variant != "unsigned" and "per_token" in options:
            continue
        found[variant] = {}
        for block in slices.BLOCKS:
            each = [
                block_scores(variant, layer, block, of_a, of_b, most, **options)
                for layer, most in zip(layers, largest, strict=True)
            ]
            found[variant][block] = {
                "mean": [[float(one.mean()) for one in layer] for layer in each],
                "largest": float(max(np.abs(one).max() for layer in each for one in layer)),
            }
    return found


def block_scores(
    variant, layer, block, of_a, of_b, largest, pool="pooled", source="contributions", aggregate="sum", normalisation="tokens",
    include_bias=False, per_token=False, epsilon=None, ridge_lambda=None,
):  # fmt: skip
    """All pairs of every slice of a layer and block, ``[slices][n_a, n_b]``."""
    tokens_a, tokens_b = (np.array([float(one.tokens) for one in side]) for side in (of_a, of_b))
    sides = []
    for side, tokens in ((of_a, tokens_a), (of_b, tokens_b)):
        grads = [np.array([slices.cut(one, part, include_bias) for one in side]) for part in layer[block]]
        sides.append([(g, metric.normalised(g, tokens, normalisation), tokens) for g in grads])
    fishers = [[metric.fisher(metric.contributions(h), source) for _, h, _ in side] for side in sides]
    means = [metric.block_mean(side) for side in fishers]
    relative = epsilon is None and ridge_lambda is None
    counts = (tokens_a, tokens_b) if normalisation == "tokens" else (np.ones_like(tokens_a), np.ones_like(tokens_b))
    omega = metric.matrix_weights(len(of_a), len(of_b), pool, source)
    found = []
    for number, part in enumerate(layer[block]):
        side_a, side_b = sides[0][number], sides[1][number]
        if variant == "full":
            total = metric.full_scores(side_a[1], side_b[1], omega)
            # The mean over the slice of its diagonal is tr F / K.
            noise = metric.is_noise(
                metric.pooled(*(one[number].mean() for one in fishers), pool), metric.pooled(*largest, pool)
            )
        elif variant == "kfac":
            pairs = [[token_pairs(one, part, layer, include_bias) for one in side] for side in (of_a, of_b)]
            total, mean = metric.kfac_scores(*pairs, *counts, omega)
            noise = metric.is_noise(mean, metric.pooled(*largest, pool))
        else:
            of_each = [one[number] for one in fishers]
            total = metric.sum_scores(variant, side_a, side_b, (
                metric.damped(metric.pooled(*of_each, pool), metric.pooled(*means, pool), epsilon, ridge_lambda),
                *(metric.damped(one, mean, epsilon, ridge_lambda) for one, mean in zip(of_each, means, strict=True)),
            ), per_token)  # fmt: skip
            noise = variant != "dot" and metric.block_is_noise(variant, means, largest, pool)
        total = np.zeros_like(total) if noise and relative else total
        found.append(total / side_a[0].shape[1] if aggregate == "mean" else total)
    return found


def largest_means(layer, of_a, of_b, source="contributions", normalisation="tokens", include_bias=False):
    """The largest mean of F over a block, of each task."""
    found = []
    for side in (of_a, of_b):
        tokens = np.array([float(one.tokens) for one in side])
        means = []
        for block in slices.BLOCKS:
            grads = [np.array([slices.cut(one, part, include_bias) for one in side]) for part in layer[block]]
            squares = [metric.contributions(metric.normalised(g, tokens, normalisation)) for g in grads]
            means.append(metric.block_mean([metric.fisher(one, source) for one in squares]))
        found.append(max(means))
    return found


def token_pairs(sample, part, layer, include_bias):
    """``(u, v)`` of equation M16 at the tokens that are reached."""
    inputs, deltas = sample.inputs[part.module], sample.deltas[part.module]
    peers = {"O"} if part.block == "O" else {"Q", "K", "V"}
    reached = np.any([sample.deltas[layer[block][0].module].any(1) for block in peers], axis=0)
    own, other = (inputs, deltas) if part.block == "O" else (deltas, inputs)
    if include_bias and part.bias is not None:
        other = np.concatenate([other, np.ones((len(other), 1))], axis=1)
    return own[reached][:, slice(*part.features)], other[reached]


def fisher_sums(layers, of_a, of_b):
    """``{"task source layer block": [slices]}``."""
    found = {}
    for task, side in (("a", of_a), ("b", of_b)):
        tokens = np.array([float(one.tokens) for one in side])
        for number, layer in enumerate(layers):
            for block in slices.BLOCKS:
                sums = []
                for part in layer[block]:
                    h = metric.normalised(np.array([slices.cut(one, part) for one in side]), tokens)
                    sums.append(metric.contributions(h).sum(1))
                for said, source in (("welford", "contributions"), ("ema", "ema")):
                    weights = metric.weights(len(side), source)
                    found[f"{task} {said} {number} {block}"] = [float(weights @ one) for one in sums]
    return found


def predictions(_model, layers, of_a, of_b):
    """``{"optimiser curvature": [[layer, block, slice, change]]}``, without samples that both tasks share."""
    found = {}
    for optimiser in ("sgd", "adam", "sign"):
        for curvature in ("none", "diagonal", "gradient"):
            rows = []
            for number, layer in enumerate(layers):
                for block in slices.BLOCKS:
                    cuts = [
                        [np.array([slices.cut(one, part) for one in side]) for side in (of_a, of_b)]
                        for part in layer[block]
                    ]
                    mean = metric.block_mean([(g_b**2).mean(0) for _, g_b in cuts])
                    for unit, (g_a, g_b) in enumerate(cuts):
                        change = metric.predicted(g_a, g_b, mean, optimiser, curvature, STEP_SIZE)
                        rows.append([number, block, unit, change])
            found[f"{optimiser} {curvature}"] = rows
    return found


def load(path):
    """The file of gradients, in double precision."""
    from safetensors.numpy import load_file

    return {name: grads.astype(np.float64) for name, grads in load_file(path).items()}


def tests(grads):
    """What `decisions.json` holds of gradients, and intervals of the lift."""
    labels = {task: [f"{task}{one}" for one in of_each] for task, of_each in LABELS.items()}
    drawn = {"number": PERMUTATIONS, "seed": SEED}
    made = {"source": permutations.source(*(grads[one] for one in "arb"), labels["a"], labels["r"], **drawn)}
    for statistic in ("sym", "asym"):
        made[statistic] = permutations.exchange(grads["a"], grads["b"], labels["a"], labels["b"], statistic, **drawn)
    exact, floats = {}, {}
    for name, (observed, effect, null) in made.items():
        turned = (np.abs(observed), np.abs(null)) if name == "asym" else (observed, null)
        exact[f"{name} counts"] = permutations.counts(*turned)
        exact[f"{name} family counts"] = permutations.family_counts(*turned)
        floats[f"{name} statistic"], floats[f"{name} effect"] = observed.tolist(), effect.tolist()
    sizes = [(grads[task][:, UNPLANTED] ** 2).sum(1) for task in "ar"]
    exact["conformal counts"] = permutations.conformal_counts(*sizes)
    from scipy import stats

    lifts = permutations.intervals(
        grads["a"], grads["b"], labels["a"], labels["b"], lambda df: stats.t.ppf((1 + 0.95) / 2, df)
    )
    return {"exact": exact, "floats": floats, "intervals": lifts, "unequal": unequal(grads, labels)}


def unequal(grads, labels):
    """``test_source`` with fewer clusters in the reference, so few that all relabelings are listed."""
    few = len(set(labels["r"][:6]))
    observed, effect, null = permutations.source(
        grads["a"], grads["r"][:6], grads["b"], labels["a"], labels["r"][:6], PERMUTATIONS, SEED
    )
    assert few < len(set(labels["a"]))
    return {
        "relabelings": len(null), "counts": permutations.counts(observed, null),
        "family counts": permutations.family_counts(observed, null), "statistic": observed.tolist(), "effect": effect.tolist(),
    }  # fmt: skip
