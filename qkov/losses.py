"""Per-sample losses: what a gradient is the gradient of.

The built-in loss is causal language modelling, summed over the tokens of a sample (never averaged: an average would
weigh short samples more, and squares of averages do not add up). Anything else is a function of the user's,
``loss_fn(model, batch) -> losses [N]`` or ``-> (losses [N], tokens [N])``.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .errors import BatchError, OptionError

if TYPE_CHECKING:
    from torch import nn


IGNORED = -100  # the label that enters no loss, as in transformers


def real_tokens(batch: Mapping[str, Any]) -> torch.Tensor:
    """Return which positions hold a token, bool ``[N, T]``: the attention mask, or everything.

    Args:
        batch: Mapping with ``input_ids`` or ``inputs_embeds``, and perhaps ``attention_mask`` and ``labels``.

    Returns:
        Bool ``[N, T]``.

    Raises:
        BatchError: If there are neither ``input_ids`` nor ``inputs_embeds``, or a shape does not fit.
    """
    mask = batch.get("attention_mask")
    name, axes = ("input_ids", "[N, T]") if "input_ids" in batch else ("inputs_embeds", "[N, T, hidden]")
    if name not in batch:
        raise BatchError(
            f"a batch with entries {sorted(batch)}; expected 'input_ids' or 'inputs_embeds', or a loss_fn."
        )
    source = batch[name]
    if source.ndim != axes.count(",") + 1 or not source.shape[1]:
        raise BatchError(
            f"{name} has shape {tuple(source.shape)}; expected {axes}. One sample alone needs N = 1 too, and T is at least 1."
        )
    shape = source.shape[:2]
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=source.device)
    if tuple(mask.shape) != tuple(shape):
        raise BatchError(
            f"attention_mask has shape {tuple(mask.shape)}; expected {tuple(shape)}, one entry per token. "
            "For masks of another form pass a loss_fn."
        )
    return mask != 0


def target_labels(batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the labels that enter the causal loss, ``[N, T]``, unshifted; ``IGNORED`` elsewhere.

    Position t counts when it and its predecessor are real tokens: with padding on the left, the label of the first
    real token would be predicted by a padding position, which is no prediction at all.

    Args:
        batch: Mapping with ``input_ids`` or ``inputs_embeds``, and perhaps ``attention_mask`` and ``labels``.

    Returns:
        Integers ``[N, T]``.

    Raises:
        BatchError: If there are no labels, or a shape does not fit.
    """
    real = real_tokens(batch)
    if "labels" in batch:
        labels = batch["labels"]
        if labels.shape != real.shape:
            raise BatchError(f"labels have shape {tuple(labels.shape)}; expected {tuple(real.shape)}, unshifted.")
    elif "input_ids" in batch:
        labels = batch["input_ids"]
    else:
        raise BatchError("a batch of inputs_embeds has no labels; pass 'labels' [N, T], unshifted, or a loss_fn.")
    predicted = torch.zeros_like(real)
    predicted[:, 1:] = real[:, 1:] & real[:, :-1]
    return labels.masked_fill(~predicted, IGNORED)


def position_ids(batch: Mapping[str, Any]) -> torch.Tensor:
    """Count the real tokens of a ``batch`` from the left, 0-based, ``[N, T]``; padding gets position 0, which nothing
    attends to.
    """
    return (real_tokens(batch).long().cumsum(-1) - 1).clamp_min(0)


def accepts(model: nn.Module, name: str) -> bool:
    """Tell whether the forward of ``model`` takes an argument ``name``, itself or by passing ``**kwargs`` on."""
    parameters = inspect.signature(model.forward).parameters
    if name in parameters:
        return True
    passes_on = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return passes_on and any(accepts(child, name) for child in model.children())


def causal_lm_loss(model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Sum the negative log-likelihood of each sample's tokens.

    .. math:: \ell_i = -\sum_t \log p(x_{i,t} \mid x_{i,<t})

    Args:
        model: Called as in transformers; its output has ``logits [N, T, vocabulary]``.
        batch: Mapping with ``input_ids`` or ``inputs_embeds``, and optionally ``attention_mask``, ``labels``
            (unshifted) and ``position_ids``. Other entries are passed to the model.

    Returns:
        ``(losses [N], tokens [N])``: nats, in float32 or wider, and the number of tokens predicted.

    Raises:
        BatchError: If a sample has no predicted token, or a shape does not fit.
    """
    labels = target_labels(batch)[:, 1:]
    tokens = (labels != IGNORED).sum(1)
    logits = _predictions(model, batch)
    _check_labels(labels, logits.shape[-1])
    per_token = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels.to(logits.device, torch.long), ignore_index=IGNORED, reduction="none"
    )
    return per_token.sum(1), tokens


def sample_labels(
    model: nn.Module, batch: Mapping[str, Any], *, seed: int, num_draws: int = 1, micro_batch: int = 8
) -> dict[str, torch.Tensor]:
    r"""Return a batch of the same inputs whose labels are drawn from the model's own predictions.

    .. math:: y_{i,t} \sim p(\cdot \mid x_{i,<t}), \qquad
       \mathbb E\, g_i = 0, \quad \mathbb E\, g_i g_i^T = \sum_t \sum_c p_c\, \nabla \log p_c\, \nabla \log p_c^T

    Gradients of these labels make the true Fisher of the model on these inputs, drawn by Monte Carlo, where those of the
    data's labels make the empirical one. Collect the batch as a task of its own and pass
    ``fisher_tasks={"math": "math, labels of the model"}`` to the metric. Labels are drawn where the batch's own enter the
    loss, each from the prediction given the batch's own inputs, never given other drawn labels.

    Args:
        model: Causal, as for :func:`causal_lm_loss`; left as it was, run in eval mode.
        batch: As for :func:`causal_lm_loss`.
        seed: A non-negative int. Draws depend on it, the inputs and their order, not on padding or passes.
        num_draws: Sets of labels per sample; the draws of sample i are rows ``i * num_draws`` and following.
        micro_batch: Samples per forward pass.

    Returns:
        A mapping with ``labels`` ``[N * num_draws, T]`` (unshifted, ``IGNORED`` where nothing is drawn) and the other
        entries of the batch, repeated.

    Raises:
        BatchError: If the batch has no labels of its own to say where. OptionError: For a seed or number without meaning.
    """
    for name, value, least in (("seed", seed, 0), ("num_draws", num_draws, 1), ("micro_batch", micro_batch, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise OptionError(f"{name}={value!r}; expected an int of at least {least}.")
    counted = target_labels(batch) != IGNORED
    device, generator = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    drawn = torch.full((len(counted), num_draws, counted.shape[1]), IGNORED, dtype=torch.long)
    for start in range(0, len(counted), micro_batch):
        rows = slice(start, start + micro_batch)
        part = {
            name: value[rows].to(device) if _has_rows(value) else value for name, value in batch.items()
        }  # fmt: skip
        with torch.no_grad(), _evaluated(model):
            chances = _predictions(model, part).double().softmax(-1).cpu()
        for row, chance in enumerate(chances):
            where = counted[start + row].cpu()
            drawn[start + row][:, where] = _draw(chance[where[1:]], num_draws, generator)
    repeated = {
        name: value.repeat_interleave(num_draws, 0) if _has_rows(value) else value for name, value in batch.items()
    }
    return {**repeated, "labels": drawn.flatten(0, 1).to(counted.device)}


def _draw(chances: torch.Tensor, num_draws: int, generator: torch.Generator) -> torch.Tensor:
    """Draw classes by inverting the cumulated chances ``[tokens, classes]``, ``[num_draws, tokens]``."""
    uniform = torch.rand(num_draws, len(chances), generator=generator, dtype=torch.float64)
    edges = chances.cumsum(-1)
    found = torch.searchsorted(edges, uniform.T.contiguous() * edges[:, -1:], right=True)
    return found.clamp_max(chances.shape[-1] - 1).T


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


@contextlib.contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and every module back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _predictions(model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
    """Run the model and return the logits that predict labels 1 to T - 1, ``[N, T - 1, vocabulary]``, float32 or wider."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    # GPT-2 numbers positions from the left edge, padding included, unless told: a gradient error of 129 % when padded left.
    if accepts(model, "position_ids"):
        inputs.setdefault("position_ids", position_ids(batch))
    if accepts(model, "use_cache"):
        inputs.setdefault("use_cache", False)
    logits = model(**inputs).logits
    return (logits if logits.dtype == torch.float64 else logits.float())[:, :-1]


def _check_labels(labels: torch.Tensor, vocabulary: int) -> None:
    used = labels[labels != IGNORED]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < vocabulary:
        wrong = (labels != IGNORED) & ((labels < 0) | (labels >= vocabulary))
        raise BatchError(
            f"labels range from {int(used.min())} to {int(used.max())}; the model predicts 0 to {vocabulary - 1}. The first "
            f"sample with another one is number {int(wrong.any(1).nonzero()[0])} of its pass, counted from 0. Use {IGNORED} "
            "for labels that enter no loss."
        )
