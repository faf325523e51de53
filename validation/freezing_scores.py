r"""One number per slice and score, larger = freeze it sooner: what each score says of the harm that training on B does to A.

With :math:`\bar g` the mean gradients of summed token losses, F the means of their squares (of raw gradients), and the
step :math:`d = -\eta\, u`, where :math:`u = \bar g_B` (SGD) or :math:`\bar g_B / \sqrt{F_B}` (Adam):

    ======================  ===============================================================  =====================
    score                   of a slice                                                       frozen first
    ======================  ===============================================================  =====================
    predicted               sum over k of gbar_A d + F_A d^2 / 2                             the largest harm
    predicted per progress  the same, over minus the sum over k of gbar_B d                  the largest
    averaged heatmap        mean over pairs of "unsigned", pool A: the seeds' picture        the largest
    unsigned pooled         mean over pairs of "unsigned", pooled F                          the largest
    natural                 mean over pairs of "natural"                                     the largest
    signed                  mean over pairs of "signed", pool A: below 0 is conflict         the most negative
    dot                     mean over pairs of "dot" = gbar_A gbar_B: below 0 is conflict    the most negative
    gradient of B           norm of gbar_B                                                   the largest
    Fisher of A             sum over k of F_A                                                the largest
    helpful by prediction   minus "predicted": what should help A is frozen                  the largest help
    ======================  ===============================================================  =====================

:math:`\eta` is the size for which first order over all slices together promises the progress on B at which arms are
compared; so the share of curvature does not depend on the learning rate of the fine-tuning. "predicted" is
:func:`qkov.predict_change`. Means over pairs of a product of two factors are products of the factors' means; the factors
and the damping are those of ``qkov.formula``, and a test compares with the averages of the product's heatmaps.
"""

import torch

import qkov
from qkov import formula

SCORES = (
    "predicted",
    "predicted per progress",
    "averaged heatmap",
    "unsigned pooled",
    "natural",
    "signed",
    "dot",
    "gradient of B",
    "Fisher of A",
    "helpful by prediction",
)
HEATMAPS = {
    "averaged heatmap": ("unsigned", "A"),
    "unsigned pooled": ("unsigned", "pooled"),
    "natural": ("natural", "A"),
    "signed": ("signed", "A"),
    "dot": ("dot", "A"),
}
"""Variant and pool of the scores that are averages of a heatmap."""
CONFLICT_IS_NEGATIVE = ("signed", "dot")


def harms(gradients, task_a, task_b, *, optimiser, progress):
    """Score every slice.

    Args:
        gradients: :class:`validation.trained_gradients.Gradients` of both tasks.
        task_a: Task that is to be kept. task_b: Task that is to be learned.
        optimiser: "SGD" or "Adam": the direction of the step of "predicted".
        progress: By how much the loss of B is to fall, nats per token.

    Returns:
        ``{score: float64 tensor [slices]}`` in the order of ``Gradients.by_slice``, larger = freeze it sooner.
    """
    found = {name: [] for name in (*HEATMAPS, "gradient of B", "Fisher of A")}
    for grads_a, grads_b, tokens_a, tokens_b in _blocks(gradients, task_a, task_b):
        for name, values in average_heatmaps(grads_a, grads_b, tokens_a, tokens_b).items():
            found[name].append(-values if name in CONFLICT_IS_NEGATIVE else values)
        found["gradient of B"].append(torch.stack([grad.mean(0).norm() for grad in grads_b]))
        found["Fisher of A"].append(torch.stack([grad.square().mean(0).sum() for grad in grads_a]))
    found = {name: torch.cat(values) for name, values in found.items()}
    prediction = qkov.predict_change(
        gradients.collector, task_a, task_b, optimiser=optimiser.lower(), decrease=progress, progress=False
    )
    predicted = torch.tensor(prediction.change)
    found |= {
        "predicted": predicted,
        "predicted per progress": predicted / torch.tensor(prediction.descent),
        "helpful by prediction": -predicted,
    }
    return {name: found[name] for name in SCORES}


def average_heatmaps(grads_a, grads_b, tokens_a, tokens_b):
    """Average over all pairs of samples what the heatmaps of :data:`HEATMAPS` hold, for the slices of one block of a layer.

    Args:
        grads_a, grads_b: Raw gradients, lists of float64 ``[samples, parameters]``, one for each slice of the block.
        tokens_a, tokens_b: Tokens of each sample.

    Returns:
        ``{name: [slices]}``, the product's ``layer_head_avg`` on kv heads.
    """
    h_a, h_b = (
        [formula.normalise(grad, tokens) for grad in grads]
        for grads, tokens in ((grads_a, tokens_a), (grads_b, tokens_b))
    )
    fishers = [[formula.contribution(h).mean(0) for h in side] for side in (h_a, h_b)]
    found = {}
    for name, (variant, pool) in HEATMAPS.items():
        pooled = [(f_a + f_b) / 2 if pool == "pooled" else f_a for f_a, f_b in zip(*fishers, strict=True)]
        damped_a = _damped(pooled)
        damped_b = _damped(fishers[1]) if variant == "natural" else damped_a
        values = []
        for place, (grad_a, grad_b) in enumerate(zip(grads_a, grads_b, strict=True)):
            left = formula.left_factor(variant, grad_a, h_a[place], damped_a[place])
            right = formula.right_factor(variant, grad_b, h_b[place], damped_b[place], tokens_b)
            values.append(left.mean(0) @ right.mean(0) / grad_a.shape[1])
        found[name] = torch.stack(values)
    return found


def _damped(fishers):
    mean = torch.stack(fishers).mean().item()
    return [formula.damp(fisher, mean) for fisher in fishers]


def _blocks(gradients, task_a, task_b):
    """Gather the slices of one block of one layer at a time, as float64 tensors, with tokens."""
    collector = gradients.collector
    tokens = [torch.tensor([one.num_tokens for one in collector.samples(task)]) for task in (task_a, task_b)]
    slices = gradients.by_slice(task_a, task_b)
    for layout in collector.config.layers:
        for projection in layout.projections:
            pairs = [next(slices) for _ in range(projection.num_units)]
            yield *([torch.from_numpy(pair[side]) for pair in pairs] for side in (0, 1)), *tokens
