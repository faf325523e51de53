"""What a model holds that would make results depend on the run or on the company of a sample, refused by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from .errors import BatchError, OptionError

if TYPE_CHECKING:
    from torch import nn


# What makes the backward pass of flash-attention repeat; transformers reads it at every call.
FLASH_SWITCH = "FLASH_ATTENTION_DETERMINISTIC"


def check_attention(model: nn.Module) -> None:
    """Refuse attention whose gradients differ from run to run, where torch is asked for deterministic algorithms.

    Kernels of flash-attention add up the query's gradient in the order in which blocks finish. They are not torch's, so
    that its deterministic mode neither changes nor refuses them.

    Raises:
        OptionError: Names the first module.
    """
    if not torch.are_deterministic_algorithms_enabled() or os.environ.get(FLASH_SWITCH) == "1":
        return
    for name, module in model.named_modules():
        chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if isinstance(chosen, str) and "flash" in chosen:
            raise OptionError(
                f"{name or type(module).__name__!r} uses attn_implementation={chosen!r}, whose query gradients are added "
                "up in another order in every run, and deterministic algorithms are asked for. Load the model with "
                f"attn_implementation='sdpa' or 'eager', or set {FLASH_SWITCH}=1 for the slower kernel that repeats."
            )


def check_norms(model: nn.Module, num_samples: int) -> None:
    """Refuse normalisation by the statistics of a pass of several samples, which eval mode does not switch off.

    Gradients show most of what mixes samples (:mod:`qkov.sample_rows`), but not what does so below the first projection.

    Raises:
        BatchError: Names the first module.
    """
    for name, module in model.named_modules() if num_samples > 1 else ():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise BatchError(
                f"{name!r} ({type(module).__name__}) normalises by the statistics of all {num_samples} samples of a pass, so "
                "that none has a gradient of its own: track_running_stats is off. Switch it on, or collect with "
                "micro_batch=1."
            )
