"""The same quantities the slow way: one sample at a time, float64, plain autograd and loops. Production never calls it.

Nothing here shares code with collection, formula, Fisher or scoring: a sample is run alone without its padding, the
loss is a loop over tokens, gradients are ``parameter.grad`` of all weights, and a score is a sum written out. Where heads
lie is the one thing taken from the layout, which has checks of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from .geometry import AttentionLayout
    from .layout import QKOVConfig
    from .option_types import LossFunction


def sample_gradients(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss_fn: LossFunction | None = None,
    *,
    dtype: torch.dtype | None = torch.float64,
) -> tuple[list[dict[str, np.ndarray]], list[int]]:
    """Differentiate each sample's summed loss alone, in a copy of the model.

    Args:
        model: Left as it is. batch: As for ``FisherCollector.collect_fisher``. loss_fn: The same, or None for causal LM.
        dtype: Of the copy; None leaves the model's own, to measure how far rounding alone takes plain autograd.

    Returns:
        ``(grads, tokens)``: a list of ``{param_name: float64 array}`` and a list of token counts.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    for tensor in (*twin.parameters(), *twin.buffers()) if dtype is not None else ():
        # Module.to would take the imaginary part of complex buffers away: the positions of Llama 4's vision tower.
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    rows = len(next(value for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim))
    grads, tokens = [], []
    with torch.inference_mode(False), torch.enable_grad():
        for row in range(rows):
            twin.zero_grad(set_to_none=True)
            loss, count = _own_loss(twin, batch, row) if loss_fn is None else _user_loss(twin, batch, row, loss_fn)
            loss.backward()
            grads.append({
                name: (torch.zeros_like(p) if p.grad is None else p.grad).detach().cpu().double().numpy().copy()
                for name, p in twin.named_parameters()
            })  # fmt: skip
            tokens.append(count)
    return grads, tokens


def _own_loss(model: nn.Module, batch: Mapping[str, Any], row: int) -> tuple[torch.Tensor, int]:
    """Negative log-likelihood of one sample, padding cut away, token by token."""
    length = (batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"]).shape[1]
    mask = batch["attention_mask"][row] if "attention_mask" in batch else torch.ones(length)
    real = [t for t in range(length) if mask[t] != 0]
    device = next(model.parameters()).device
    if "input_ids" in batch:
        inputs = {"input_ids": batch["input_ids"][row, real][None].to(device)}
    else:
        inputs = {"inputs_embeds": batch["inputs_embeds"][row, real][None].to(device, next(model.parameters()).dtype)}
    labels = batch["labels"][row, real] if "labels" in batch else batch["input_ids"][row, real]
    logits = model(**inputs).logits[0]
    loss, count = 0.0, 0
    for t in range(1, len(real)):
        # A token behind a gap in the mask is predicted by what is masked, which is no prediction.
        if real[t] == real[t - 1] + 1 and int(labels[t]) != -100:
            row_logits = logits[t - 1]
            loss = loss + torch.logsumexp(row_logits, 0) - row_logits[int(labels[t])]
            count += 1
    return loss, count  # type: ignore[return-value]  # a number becomes a tensor with the first term


def _user_loss(model: nn.Module, batch: Mapping[str, Any], row: int, loss_fn: LossFunction) -> tuple[torch.Tensor, int]:
    alone = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.ndim:
            parameter = next(model.parameters())
            value = value[row : row + 1].to(parameter.device)
            value = value.to(parameter.dtype) if value.is_floating_point() else value
        alone[name] = value
    result = loss_fn(model, alone)
    losses, count = result if isinstance(result, tuple) else (result, [1])
    return losses[0], int(count[0])


def predictions(model: nn.Module, batch: Mapping[str, Any], row: int) -> torch.Tensor:
    """Predict each label of a sample that counts, the sample alone without padding, float64 ``[labels, classes]``.

    Args:
        model: A causal language model.
        batch: Mapping with ``input_ids``, and perhaps ``attention_mask`` and ``labels``.
        row: Which sample.

    Returns:
        Probabilities, float64 ``[labels, classes]``.
    """
    twin = copy.deepcopy(model).eval()
    mask = batch["attention_mask"][row] if "attention_mask" in batch else torch.ones(batch["input_ids"].shape[1])
    real = [t for t in range(len(mask)) if mask[t] != 0]
    labels = (batch["labels"] if "labels" in batch else batch["input_ids"])[row]
    with torch.no_grad():
        ids = batch["input_ids"][row, real][None].to(next(twin.parameters()).device)
        logits = twin(input_ids=ids).logits[0].double().cpu()
    places = [p for p in range(1, len(real)) if real[p] == real[p - 1] + 1 and int(labels[real[p]]) != -100]
    return torch.stack([torch.exp(logits[p - 1] - torch.logsumexp(logits[p - 1], 0)) for p in places])


def cut(
    grad: Mapping[str, np.ndarray], layout: AttentionLayout, block: str, unit: int, include_bias: bool = False
) -> np.ndarray:
    """Cut one slice out of the gradients of a model as a flat array.

    Args:
        grad: ``{param_name: array}`` in the shapes of the stored weights.
        layout, block, unit: The slice; ``unit`` is a kv head for K and V.
        include_bias: Whether the bias that belongs to the slice is appended.

    Returns:
        Float64 ``[slice]``.
    """
    where = layout.projection(block).slice_of(unit)
    rows, columns = where.row_slice or (0, None), where.col_slice or (0, None)
    part = grad[where.param_name][rows[0] : rows[1], columns[0] : columns[1]].ravel()
    if include_bias and where.bias_name is not None:
        part = np.concatenate([part, grad[where.bias_name][where.bias_slice[0] : where.bias_slice[1]]])  # type: ignore[index]  # there with the name of the bias
    return part.astype(np.float64)


def scores(
    grads_a: Sequence[dict[str, np.ndarray]],
    tokens_a: Sequence[int],
    grads_b: Sequence[dict[str, np.ndarray]],
    tokens_b: Sequence[int],
    layout: AttentionLayout,
    block: str,
    unit: int,
    *,
    variant: str = "unsigned",
    fisher_pool: str = "A",
    fisher_source: str = "contributions",
    aggregate: str = "mean",
    normalize_gj: str = "none",
    contribution_normalisation: str = "tokens",
    include_bias: bool = False,
    epsilon: float | None = None,
    ridge_lambda: float | None = None,
    ridge_lambda_rel: float = 1e-8,
    ema_decay: float = 0.99,
) -> np.ndarray:
    """Score all pairs on one slice by the definitions, a pair and a parameter at a time.

    Args:
        grads_a, grads_b: Per-sample gradients of A and B, ``{param_name: array}`` each, from :func:`sample_gradients`.
        tokens_a, tokens_b: Their token counts.
        layout, block, unit: The slice; ``unit`` is a kv head for K and V.
        variant, fisher_pool, fisher_source, aggregate, normalize_gj, contribution_normalisation, include_bias, epsilon,
            ridge_lambda, ridge_lambda_rel, ema_decay: As for ``QKOVInterferenceMetric``.

    Returns:
        Float64 ``[n_a, n_b]``.

    Raises:
        OptionError: If the variant is not known.
    """
    units = range(layout.num_units(block))
    sliced_a = [[cut(grad, layout, block, one, include_bias) for one in units] for grad in grads_a]
    sliced_b = [[cut(grad, layout, block, one, include_bias) for one in units] for grad in grads_b]
    root_a = [math.sqrt(t) if contribution_normalisation == "tokens" else 1.0 for t in tokens_a]
    root_b = [math.sqrt(t) if contribution_normalisation == "tokens" else 1.0 for t in tokens_b]
    fisher_a = _fisher(sliced_a, root_a, fisher_source, ema_decay)
    fisher_b = _fisher(sliced_b, root_b, fisher_source, ema_decay)
    if fisher_pool == "pooled":
        chosen = [(one + two) / 2 for one, two in zip(fisher_a, fisher_b, strict=True)]
    else:
        chosen = fisher_a if fisher_pool == "A" else fisher_b

    def damped(fisher: Sequence[np.ndarray]) -> np.ndarray:
        if epsilon is not None or ridge_lambda is not None:
            floor = 1e-10 if epsilon is None else epsilon
            return np.maximum(fisher[unit], floor) + (1e-8 if ridge_lambda is None else ridge_lambda)
        return fisher[unit] + ridge_lambda_rel * np.mean(np.concatenate(fisher)) + np.finfo(np.float64).tiny

    size = len(sliced_a[0][unit])
    result = np.zeros((len(grads_a), len(grads_b)))
    for i, one in enumerate(sliced_a):
        for j, two in enumerate(sliced_b):
            g_i, g_j = one[unit], two[unit]
            h_i, h_j = g_i / root_a[i], g_j / root_b[j]
            if variant == "unsigned":
                reach = np.abs(g_j) / (tokens_b[j] if normalize_gj == "per_token" else 1)
                terms = h_i**2 / damped(chosen) * reach
            elif variant == "natural":
                terms = h_i**2 / damped(fisher_a) * np.abs(h_j) / np.sqrt(damped(fisher_b))
            elif variant == "signed":
                terms = h_i * h_j / damped(chosen)
            elif variant == "symmetric":
                terms = np.sqrt(h_i**2 * h_j**2) / damped(chosen)
            elif variant == "dot":
                terms = g_i * g_j
            else:
                raise OptionError(f"variant {variant!r} is not known to the reference.")
            result[i, j] = math.fsum(terms) / (size if aggregate == "mean" else 1)
    return result


def _fisher(sliced: Sequence[list[np.ndarray]], roots: Sequence[float], source: str, decay: float) -> list[np.ndarray]:
    """F of every unit of a block: ``[units][slice]``, by running updates."""
    num_units = len(sliced[0])
    if source == "ema":
        running, weight = [0.0] * num_units, 0.0
        for grad, root in zip(sliced, roots, strict=True):
            running = [decay * was + (1 - decay) * (g / root) ** 2 for was, g in zip(running, grad, strict=True)]  # type: ignore[operator]  # numbers become arrays with the first term
            weight = decay * weight + (1 - decay)
        return [value / weight for value in running]  # type: ignore[misc]  # likewise
    total: list[Any] = [0.0] * num_units
    for grad, root in zip(sliced, roots, strict=True):
        total = [was + (g / root) ** 2 for was, g in zip(total, grad, strict=True)]
    means = [value / len(sliced) for value in total]
    return [np.full(value.shape, value.mean()) for value in means] if source == "head" else means


def full_scores(
    grads_a: Sequence[dict[str, np.ndarray]],
    tokens_a: Sequence[int],
    grads_b: Sequence[dict[str, np.ndarray]],
    tokens_b: Sequence[int],
    layout: AttentionLayout,
    block: str,
    unit: int,
    *,
    fisher_pool: str = "A",
    fisher_source: str = "contributions",
    aggregate: str = "mean",
    contribution_normalisation: str = "tokens",
    include_bias: bool = False,
    ridge_lambda: float | None = None,
    ridge_lambda_rel: float = 0.1,
    ema_decay: float = 0.99,
) -> np.ndarray:
    """Score all pairs on one slice with its p x p Fisher matrix, formed as a sum of outer products and solved.

    Args:
        grads_a, grads_b: Per-sample gradients of A and B, ``{param_name: array}`` each, from :func:`sample_gradients`.
        tokens_a, tokens_b: Their token counts.
        layout, block, unit: The slice; ``unit`` is a kv head for K and V.
        fisher_pool, fisher_source, aggregate, contribution_normalisation, include_bias, ridge_lambda, ridge_lambda_rel,
            ema_decay: As for ``QKOVInterferenceMetric``.

    Returns:
        Float64 ``[n_a, n_b]``.
    """
    sides = []
    for grads, tokens in ((grads_a, tokens_a), (grads_b, tokens_b)):
        roots = [math.sqrt(t) if contribution_normalisation == "tokens" else 1.0 for t in tokens]
        sides.append(
            [cut(grad, layout, block, unit, include_bias) / root for grad, root in zip(grads, roots, strict=True)]
        )
    size, matrix, count = len(sides[0][0]), 0.0, 0
    for side in _owners(sides, fisher_pool):
        for h, weight in zip(side, _weights(len(side), fisher_source, ema_decay), strict=True):
            matrix = matrix + np.outer(h, h) * weight / len(_owners(sides, fisher_pool))
            count += weight > 0
    damping = ridge_lambda_rel * np.trace(matrix) / min(count, size) if ridge_lambda is None else ridge_lambda
    return _quadratic_forms(*sides, matrix, damping, size if aggregate == "mean" else 1)  # type: ignore[arg-type, call-arg]  # a list does not say how many it holds


def token_factors(
    model: nn.Module, batch: Mapping[str, Any], config: QKOVConfig, loss_fn: LossFunction | None = None
) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Record every sample alone, token by token: ``{module_name: (inputs [T, d_in], output gradients [T, d_out])}``.

    Tokens at which a module and its peers (Q, K and V where they see as many tokens; O by itself) get no gradient are left
    out: they are no data points of these weights.

    Args:
        model: The model.
        batch: As for ``collect_fisher``.
        config: Where its heads lie.
        loss_fn: As for ``collect_fisher``.

    Returns:
        A dict for each sample.
    """
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    for tensor in (*twin.parameters(), *twin.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    modules, rows = dict(twin.named_modules()), []
    names = list(dict.fromkeys(part.module_name for layout in config.layers for part in layout.projections))
    count = len(next(value for value in batch.values() if isinstance(value, torch.Tensor) and value.ndim))
    with torch.inference_mode(False), torch.enable_grad():
        for row in range(count):
            seen: dict[Any, Any] = {}

            def keep(
                name: str, module_input: Sequence[torch.Tensor], output: torch.Tensor, seen: dict[str, Any] = seen
            ) -> None:
                output.retain_grad()
                seen[name] = module_input[0].detach(), output

            handles = [
                modules[name].register_forward_hook(lambda _m, given, out, name=name: keep(name, given, out))
                for name in names
            ]
            loss, _ = _own_loss(twin, batch, row) if loss_fn is None else _user_loss(twin, batch, row, loss_fn)
            loss.backward()
            for handle in handles:
                handle.remove()
            rows.append(_reached(config, {name: (x, out.grad) for name, (x, out) in seen.items()}))
    return rows


def _reached(
    config: QKOVConfig, seen: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    flat = {}
    for name, (inputs, deltas) in seen.items():
        deltas = torch.zeros_like(inputs) if deltas is None else deltas
        flat[name] = [part.reshape(-1, part.shape[-1]).double().cpu().numpy() for part in (inputs, deltas)]
    kept = {}
    for layout in config.layers:
        for one in layout.projections:
            inputs, deltas = flat[one.module_name]
            peers = [flat[other.module_name][1] for other in layout.projections if other.side == one.side]
            alive = np.any([(peer != 0).any(1) for peer in peers if len(peer) == len(deltas)], axis=0)
            kept[one.module_name] = inputs[alive], deltas[alive]
    return kept


def kfac_scores(
    factors_a: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]],
    tokens_a: Sequence[int],
    factors_b: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]],
    tokens_b: Sequence[int],
    layout: AttentionLayout,
    block: str,
    unit: int,
    *,
    fisher_pool: str = "A",
    fisher_source: str = "contributions",
    aggregate: str = "mean",
    contribution_normalisation: str = "tokens",
    include_bias: bool = False,
    ridge_lambda: float | None = None,
    ridge_lambda_rel: float = 0.1,
    ema_decay: float = 0.99,
) -> np.ndarray:
    """Score all pairs on one slice with the Kronecker product of both factors, formed token by token and solved.

    Args:
        factors_a, factors_b: From :func:`token_factors`. tokens_a, tokens_b: Token counts, from :func:`sample_gradients`.
        layout, block, unit: The slice; ``unit`` is a kv head for K and V.
        fisher_pool, fisher_source, aggregate, contribution_normalisation, include_bias, ridge_lambda, ridge_lambda_rel,
            ema_decay: As for ``QKOVInterferenceMetric``.

    Returns:
        Float64 ``[n_a, n_b]``.
    """
    projection = layout.projection(block)
    start, stop = projection.interval(unit)
    biased, sides = include_bias and projection.bias_name is not None, []
    for factors, tokens in ((factors_a, tokens_a), (factors_b, tokens_b)):
        side = []
        for one, t in zip(factors, tokens, strict=True):
            inputs, deltas = one[projection.module_name]
            own, other = (deltas, inputs) if projection.side == "output" else (inputs, deltas)
            other = np.concatenate([other, np.ones((len(other), 1))], 1) if biased else other
            side.append((own[:, start:stop], other, t if contribution_normalisation == "tokens" else 1))
        sides.append(side)
    own, other, mass = 0.0, 0.0, 0.0
    for side in _owners(sides, fisher_pool):
        for (us, vs, scale), weight in zip(side, _weights(len(side), fisher_source, ema_decay), strict=True):
            for u, v in zip(us, vs, strict=True):
                own = own + np.outer(u, u) * weight / scale / len(_owners(sides, fisher_pool))
                other = other + np.outer(v, v) * weight / scale
                mass += weight / scale
    matrix = np.kron(own, other / mass)
    damping = ridge_lambda_rel * np.trace(matrix) / len(matrix) if ridge_lambda is None else ridge_lambda
    h_a, h_b = (
        [sum(np.outer(u, v) for u, v in zip(us, vs, strict=True)).ravel() / math.sqrt(scale) for us, vs, scale in side]  # type: ignore[union-attr]  # a sum that starts at 0
        for side in sides
    )
    return _quadratic_forms(h_a, h_b, matrix, damping, len(matrix) if aggregate == "mean" else 1)


def _owners(sides: Sequence[list[Any]], pool: str) -> Sequence[list[Any]]:
    return {"A": sides[:1], "B": sides[1:], "pooled": sides}[pool]


def _weights(count: int, source: str, decay: float) -> list[float]:
    weights = [decay ** (count - 1 - age) if source == "ema" else 1.0 for age in range(count)]
    return [weight / sum(weights) for weight in weights]


def _quadratic_forms(
    rows_a: Sequence[np.ndarray], rows_b: Sequence[np.ndarray], matrix: np.ndarray, damping: float, divisor: int
) -> np.ndarray:
    if not matrix.any():
        return np.zeros((len(rows_a), len(rows_b)))
    solved = np.linalg.solve(matrix + damping * np.eye(len(matrix)), np.array(rows_b).T)
    return np.array(rows_a) @ solved / divisor
