"""What a score of each variant means: in words, its sign, unit and range, and how it scales with the losses.

The table is data so that results, pictures and pages say the same thing.
"""

from __future__ import annotations

from typing import Any

from . import errors

_RATIO = "dimensionless (gradients over root Fisher)"
# Degrees: how a score grows when the loss of A, of B, or of both is multiplied by a constant, damping being small.
# Under the pooled Fisher only both losses together act as a power; None says so. Order: (A, B, both).
VARIANT_MEANING: dict[str, dict[str, Any]] = {
    "unsigned": {
        "meaning": "how far B's gradient reaches into the parameters to which A's sample is unusually sensitive",
        "sign": "never negative; says that both tasks touch the same parameters, not whether one hurts the other",
        "unit": "loss per unit of parameter (B's gradient)",
        "range": "[0, inf)",
        "conflict_order": "descending",
        "degrees": {"A": (0, 1, 1), "B": (2, -1, 1), "pooled": (None, None, 1)},
    },
    "natural": {
        "meaning": "the unsigned overlap with each task measured against its own Fisher, comparable across tasks",
        "sign": "never negative; says that both tasks touch the same parameters, not whether one hurts the other",
        "unit": _RATIO,
        "range": "[0, inf)",
        "conflict_order": "descending",
        "degrees": {"A": (0, 0, 0), "B": (0, 0, 0), "pooled": (0, 0, 0)},
    },
    "signed": {
        "meaning": "agreement of the two samples' gradients, each parameter weighted by its inverse Fisher",
        "sign": "+ synergy, - conflict",
        "unit": _RATIO,
        "range": "(-inf, inf)",
        "conflict_order": "ascending",
        "degrees": {"A": (-1, 1, 0), "B": (1, -1, 0), "pooled": (None, None, 0)},
    },
    "symmetric": {
        "meaning": "overlap of the two samples' gradients in size alone, Fisher-weighted; it bounds |signed|",
        "sign": "never negative; says that both tasks touch the same parameters, not whether one hurts the other",
        "unit": _RATIO,
        "range": "[0, inf)",
        "conflict_order": "descending",
        "degrees": {"A": (-1, 1, 0), "B": (1, -1, 0), "pooled": (None, None, 0)},
    },
    "full": {
        "meaning": "agreement of the two samples' gradients, weighed by the inverse of the slice's whole Fisher matrix",
        "sign": "+ synergy, - conflict",
        "unit": _RATIO,
        "range": "(-inf, inf)",
        "conflict_order": "ascending",
        "degrees": {"A": (-1, 1, 0), "B": (1, -1, 0), "pooled": (None, None, 0)},
    },
    "kfac": {
        "meaning": "agreement of the two samples' gradients, weighed by the inverse of a Kronecker product that stands for the"
        " slice's Fisher matrix",
        "sign": "+ synergy, - conflict",
        "unit": _RATIO,
        "range": "(-inf, inf)",
        "conflict_order": "ascending",
        "degrees": {"A": (-1, 1, 0), "B": (1, -1, 0), "pooled": (None, None, 0)},
    },
    "dot": {
        "meaning": "inner product of the two samples' gradients; minus it is the first-order change of A's loss under"
        " a plain gradient step on B",
        "sign": "+ synergy, - conflict",
        "unit": "squared loss per squared unit of parameter",
        "range": "(-inf, inf)",
        "conflict_order": "ascending",
        "degrees": {"A": (1, 1, 2), "B": (1, 1, 2), "pooled": (1, 1, 2)},
    },
}

ADDITIVITY_NOTE = (
    "scores of heads do not add up to that of the uncut weight: each slice has a matrix, and damping, of its own"
)
"""Said of variants that weigh by a matrix."""

_DAMPING_RULES = {
    "full": "F + ridge_lambda_rel * trace(F) / min(samples, parameters) * identity",
    "kfac": "B x A + ridge_lambda_rel * mean eigenvalue of B x A * identity",
}


def describe_damping(variant: str, *, absolute: bool) -> str:
    """Write the damping of a variant as a formula, for a result's attributes."""
    if variant in _DAMPING_RULES:
        rule = _DAMPING_RULES[variant]
        return f"{rule.partition(' + ')[0]} + ridge_lambda * identity" if absolute else (
            f"{rule}; a slice whose mean F is at most (16 eps)^2 times that of its layer's largest block is noise and scores 0"
        )  # fmt: skip
    return "max(F, epsilon) + ridge_lambda" if absolute else (
        "F + ridge_lambda_rel * mean of F over all heads of the layer and block + smallest normal number; a block whose "
        "mean F is at most (16 eps)^2 times that of its layer's largest block is noise and scores 0"
    )  # fmt: skip


def describe_scores(
    variant: str,
    fisher_pool: str,
    *,
    aggregate: str = "mean",
    normalize_gj: str = "none",
    fisher_source: str = "contributions",
    own_fisher: bool = True,
) -> dict[str, Any]:
    """Say in words what a score of this kind means, for a result's attributes.

    Args:
        variant: A key of ``VARIANT_MEANING``.
        fisher_pool: "A", "B" or "pooled".
        aggregate: "mean" or "sum" over the parameters of a slice.
        normalize_gj: "none" or "per_token"; matters for "unsigned" only.
        fisher_source: "contributions", "ema" or "head".
        own_fisher: Whether A's Fisher comes from A's own samples.

    Returns:
        ``meaning, sign, unit, range, conflict_order`` (words), ``loss_scale_degrees`` (powers of A's loss, B's loss and
        both; None where no power exists) and ``average_caveat``: empty, or the reason why a mean over A's samples
        carries no information on A. For "full" and "kfac" also ``additivity_note``.

    Raises:
        OptionError: If the variant or the pool has no entry.
    """
    if variant not in VARIANT_MEANING:
        raise errors.OptionError(f"No meaning is recorded for variant {variant!r}; known: {sorted(VARIANT_MEANING)}.")
    entry = VARIANT_MEANING[variant]
    if fisher_pool not in entry["degrees"]:
        raise errors.OptionError(f"fisher_pool is {fisher_pool!r}; expected one of {sorted(entry['degrees'])}.")
    per_token = variant == "unsigned" and normalize_gj == "per_token"
    return {
        "meaning": entry["meaning"],
        "sign": entry["sign"],
        "unit": entry["unit"] + (", per token" if per_token else "") + f", {aggregate} over the slice",
        "range": entry["range"],
        "conflict_order": entry["conflict_order"],
        "loss_scale_degrees": dict(zip(("a", "b", "both"), entry["degrees"][fisher_pool], strict=True)),
        "average_caveat": _average_caveat(variant, fisher_pool, fisher_source) if own_fisher else "",
        **({"additivity_note": ADDITIVITY_NOTE} if variant in _DAMPING_RULES else {}),
    }


def _average_caveat(variant: str, fisher_pool: str, fisher_source: str) -> str:
    # mean_i C_ik / F_k is 1 wherever F_k > 0 if F is A's own mean, whatever A is. One scalar per slice cancels nothing.
    if fisher_source == "head" or not (variant == "natural" or (variant == "unsigned" and fisher_pool == "A")):
        return ""
    norm = "the L1 norm of B's gradient" + (" over the root of B's Fisher" if variant == "natural" else "")
    equality = "equals" if fisher_source == "contributions" else "is close to"
    return (
        f"Averaged over A's samples, this score {equality} {norm} over the parameters with F > 0, up to damping:"
        " the average carries no information on task A. Only the spread over A's samples does."
    )
