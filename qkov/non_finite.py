"""What to say of a gradient that is NaN or infinite: whose it is, of which parameter, and how many entries."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from .errors import NonFiniteError, OptionError, SkippedSamplesWarning

if TYPE_CHECKING:
    from .option_types import SampleId


CHOICES = ("error", "skip")


def check_choice(non_finite: str) -> None:
    """Refuse an option that is none."""
    if non_finite not in CHOICES:
        raise OptionError(f"non_finite={non_finite!r} is not known; expected one of {', '.join(map(repr, CHOICES))}.")


def gradient_error(
    sample_name: SampleId, module_name: str, inputs: torch.Tensor, deltas: torch.Tensor
) -> NonFiniteError:
    """Make the error for a gradient ``deltas^T inputs`` with entries that are not finite."""
    grad = deltas.double().T @ inputs.double()
    wrong = int((~torch.isfinite(grad)).sum())
    return NonFiniteError(
        f"sample {sample_name!r} has a NaN or infinite gradient at '{module_name}.weight': {wrong:,} of {grad.numel():,} "
        "entries. Check the weights and the loss of this sample alone, or leave such samples out with non_finite='skip', "
        "which lists them; nothing of its pass was kept."
    )


@contextlib.contextmanager
def told_of_skipped(task: str, skipped: dict[SampleId, str]) -> Iterator[None]:
    """Warn, as the block ends or fails, of samples that were left out in it: keys that are new in ``skipped``."""
    before = set(skipped)
    try:
        yield
    except GeneratorExit:  # whoever took the samples has given up and hears no warning
        raise
    except BaseException:
        warn_of_skipped(task, [one for one in skipped if one not in before])
        raise
    warn_of_skipped(task, [one for one in skipped if one not in before])


def warn_of_skipped(task: str, names: Sequence[SampleId]) -> None:
    """Warn of samples that were left out."""
    if names:
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        number = f"{len(names)} samples were" if len(names) > 1 else "1 sample was"
        warnings.warn(
            f"task {task!r}: {number} left out for a loss or gradient that is not finite: {shown}. "
            f"collector.skipped({task!r}) gives the reasons; results speak for the samples that are left.",
            SkippedSamplesWarning, stacklevel=6,
        )  # fmt: skip
