"""What stored gradients depend on, and whether a model and settings of now are those of then.

Hard fields must agree, or the gradients are not of one kind: model (class, configuration, weights, precision, where heads
lie) and settings (normalisation, decay, weights held, stored precision and form, tokenizer). Soft fields change numbers
by rounding only, or not at all: versions, machine, threads, implementation of attention. They are warned of.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from . import parts, reproducibility
from .canonical import canonical_json
from .errors import ModelChangedError, StoreMismatchError, StoreWarning
from .layout import QKOVConfig
from .linear_weights import LinearWeight

SOFT = ("versions", "cpu_capability", "threads", "cuda", "attention_implementation", "device", "platform")


def describe_model(model: nn.Module, config: QKOVConfig) -> dict[str, Any]:
    """Return the hard fields of a model."""
    layout = canonical_json(parts.describe_layout((), config))
    return {
        "class": type(model).__name__,
        "dtypes": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}),
        "layout": hashlib.sha256(layout.encode()).hexdigest(),
        "fingerprint": reproducibility.model_fingerprint(model),
    }


def describe_environment(model: nn.Module) -> dict[str, Any]:
    """Return the soft fields."""
    record = reproducibility.environment_record()
    record["attention_implementation"] = getattr(getattr(model, "config", None), "_attn_implementation", None)
    record["device"] = next(model.parameters()).device.type
    return {name: record[name] for name in SOFT}


def header(
    model: nn.Module,
    settings: Mapping[str, Any],
    config: QKOVConfig,
    weights: Sequence[LinearWeight],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a store writes down before its first sample."""
    return {
        "settings": settings,
        "model": describe_model(model, config),
        "environment": describe_environment(model),
        "layout": parts.describe_layout(weights, config),
        "left_out": left_out,
    }


def require_same_settings(stored: Mapping[str, Any], asked: Mapping[str, Any], where: object) -> None:
    """Refuse settings other than those of a store; a tokenizer counts where both name one.

    Raises:
        StoreMismatchError: If one differs, with both values.
    """
    differing = [
        f"{name} {asked[name]!r} instead of {stored.get(name)!r}"
        for name in asked
        if stored.get(name) != asked[name] and not (name == "tokenizer" and None in (stored.get(name), asked[name]))
    ]
    if differing:
        raise StoreMismatchError(
            f"the store {str(where)!r} was collected with other settings; asked for {', '.join(differing)}. Use the "
            "settings of the store, or another folder."
        )


def require_same_model(stored: dict[str, Any], found: dict[str, Any], where: object) -> None:
    """Refuse another model.

    Raises:
        ModelChangedError: If a hard field differs, with what differs.
    """
    differing = [
        f"{name} is {found[name]!r}, was {stored.get(name)!r}" if name in ("class", "dtypes") else
        {"layout": "its heads lie elsewhere", "fingerprint": "its configuration or weights differ"}[name]
        for name in found
        if found[name] != stored.get(name)
    ]  # fmt: skip
    if differing:
        raise ModelChangedError(
            f"the store {str(where)!r} holds gradients of other weights than the model's current ones "
            f"({'; '.join(differing)}); scores across the two would mean nothing. Load the model that the "
            "store was collected with, or use a new FisherCollector, with another folder, for the changed model."
        )


def warn_of_environment(stored: dict[str, Any], found: dict[str, Any], where: object) -> None:
    """Warn where soft fields differ: values then agree within rounding, not bit for bit."""
    differing = [name for name in found if stored.get(name) != found[name]]
    if differing:
        shown = "; ".join(f"{name} {found[name]!r}, was {stored.get(name)!r}" for name in differing)
        warnings.warn(
            f"the store {str(where)!r} is continued in another environment ({shown}): new samples agree with what they would "
            "have been there within rounding, not bit for bit.",
            StoreWarning,
            stacklevel=4,
        )
