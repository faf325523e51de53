r"""The memory of one collection pass, known before it runs: its operations are traced on tensors without values.

The forward and backward of ``gradients.collect_factors`` run under torch's ``FakeTensorMode``: weights are replaced by
stand-ins of the same shape, so a model on the meta device will do, and none is copied. Every storage that an operation
makes is counted until it is freed; the largest sum is the peak. Kernels are chosen as on the CPU. Tensors that depend on
the batch alone (ids, masks, labels, positions) keep their values, because models and losses ask for them::

    peak = max over operations of (bytes of storages that live), weights and buffers of the model left out

What no operation shows (the allocator's holes, buffers inside kernels) is not in it; see :func:`with_slack`.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

from . import gradients, losses, module_capture, samples
from .errors import QKOVError
from .layout import QKOVConfig
from .linear_weights import LinearWeight

if TYPE_CHECKING:
    from torch import nn

    from .option_types import LossFunction


_logger = logging.getLogger(__name__)

# Tensors made from nothing keep their values up to this size: position numbers and masks do, activations do not.
_VALUES_BYTES = 2**24

# Of 14 measured passes (GPT-2 and Llama, 66 to 490 MB) none took more than 1.02 of what was traced and 11 MB, with
# memory.return_what_is_freed(); without it up to 1.45 times as much.
SLACK = 1.03
SLACK_BYTES = 2**24


def pass_bytes(
    model: torch.nn.Module,
    batch: Mapping[str, Any],
    num_samples: int,
    *,
    config: QKOVConfig | None = None,
    weights: Sequence[LinearWeight] | None = None,
    loss_fn: Callable | None = None,
) -> int:
    """Trace one pass and return the most bytes that it holds at once, beyond the model itself.

    Counted are the activations that the backward needs, logits and their copies in float32, what hooks keep, the
    gradients, the second backward with which the first pass of several samples is verified, and the copies by sample in
    which the factors leave the pass. Nothing is computed and the model is left as it was.

    Args:
        model: On any device, also the meta device: ``with torch.device("meta"): AutoModel.from_config(...)``.
        batch: As for ``FisherCollector.collect_fisher``, with values (not on the meta device) and at least one sample; what a
            plan has is ``{"input_ids": torch.zeros(1, T, dtype=torch.long)}``. Its first sample is repeated.
        num_samples: Samples of the pass.
        config: Where the projections are; default: ``QKOVConfig.from_model(model)``.
        weights: What to collect, see ``gradients.collect_factors``; default: the attention projections.
        loss_fn: As for ``collect_fisher``; default: ``qkov.losses.causal_lm_loss``.

    Returns:
        Bytes. Where the model or the loss asks for values that depend on weights (routing of experts), or uses what torch
        cannot run without values, a warning is logged and :func:`estimated_bytes` is returned, which is larger.

    Example:
        >>> import torch, transformers
        >>> config = transformers.GPT2Config(n_layer=2)
        >>> with torch.device("meta"):
        ...     model = transformers.GPT2LMHeadModel(config)
        >>> batch = {"input_ids": torch.zeros(1, 128, dtype=torch.long)}
        >>> 50e6 < pass_bytes(model, batch, 1) < 150e6
        True
    """
    if config is None:
        with shaped(model):
            config = QKOVConfig.from_model(model)
    rows = samples.select_rows(batch, [0] * num_samples, torch.device("cpu"))
    try:
        return _traced(model, rows, config, weights, loss_fn or losses.causal_lm_loss)
    except (
        RuntimeError
    ) as error:  # what FakeTensorMode raises for values it does not have, and torch for missing kernels
        if isinstance(error, QKOVError):
            raise
        reason = str(error).split("\n")[0][:200]
        _logger.warning("a pass of %s cannot be traced (%s); its memory is estimated", type(model).__name__, reason)
    return estimated_bytes(model, rows)


def estimated_bytes(model: torch.nn.Module, rows: Mapping[str, Any]) -> int:
    """Bound the peak of a pass from the shapes of the weights, for models that cannot be traced.

    Every matrix ``[a, b]`` is taken to keep three tensors of ``a + b`` numbers a token (its input, its output, an activation
    between), and every layer two maps of attention of each head; all experts count as if they saw every token.

    Args:
        model: On any device. rows: The batch of the pass.
    """
    tokens = max(
        value.shape[:2].numel() for value in rows.values() if isinstance(value, torch.Tensor) and value.ndim > 1
    )
    length = max(value.shape[1] for value in rows.values() if isinstance(value, torch.Tensor) and value.ndim > 1)
    shapes = [(one.shape, max(4, one.dtype.itemsize)) for one in model.parameters() if one.ndim > 1]
    widths = sum(max(1, shape[:-2].numel()) * (shape[-1] + shape[-2]) * itemsize for shape, itemsize in shapes)
    with shaped(model):
        heads = sum(one.num_heads for one in QKOVConfig.from_model(model).layers)
    return 3 * tokens * widths + 2 * tokens * length * heads * 4


def with_slack(num_bytes: int) -> int:
    """Add what a pass takes beyond its tensors, after ``memory.return_what_is_freed()``: buffers, holes in the heap."""
    return int(num_bytes * SLACK) + SLACK_BYTES


@contextlib.contextmanager
def shaped(model: torch.nn.Module) -> Iterator[None]:
    """Let a model on the meta device count as loaded, for ``QKOVConfig.from_model`` and ``find_linear_weights``.

    Inside, all its parameters and buffers are on the CPU, in the right shape and of one number each; nothing may be run.
    """

    def stand_in(one: torch.Tensor) -> torch.Tensor:
        made = torch.zeros(1, dtype=one.dtype).expand(one.shape)
        return torch.nn.Parameter(made, requires_grad=False) if isinstance(one, torch.nn.Parameter) else made

    with _replaced(model, stand_in):
        yield


@contextlib.contextmanager
def _replaced(model: nn.Module, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Put something else where a model's parameters and buffers are, and these back after."""
    places: list[tuple[Any, str, torch.Tensor]] = [
        (where, name, one)
        for module in model.modules()
        for where in (module._parameters, module._buffers)
        for name, one in where.items()
        if one is not None
    ]
    by_id = {}
    try:
        for where, name, one in places:
            if id(one) not in by_id:  # a shared one stays shared
                by_id[id(one)] = stand_in(one)
            where[name] = by_id[id(one)]
        yield
    finally:
        for where, name, one in places:
            where[name] = one


class LiveBytes(TorchDispatchMode):
    """Follow the storages that operations make, under a ``FakeTensorMode``; :attr:`peak` is the most that lived at once.

    Operations on tensors with values run as they are, and so keep them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do not count the storages of these."""
        self._known.update(id(one.untyped_storage()) for one in tensors)

    def count(self, made: Any) -> None:
        """Count the storages of tensors, anywhere in a tree, until they are freed."""
        for one in tree_iter(made):
            if isinstance(one, torch.Tensor) and id(one.untyped_storage()) not in self._known:
                storage = one.untyped_storage()  # the same object for as long as the memory lives
                self._known.add(id(storage))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())

    def _freed(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.now -= num_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it makes."""
        kwargs = kwargs or {}
        given = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
        made = None
        if any(isinstance(one, FakeTensor) for one in given) or not given:
            made = func(*args, **kwargs)
        if made is None or (not given and _keeps_values(func, made)):
            with _disable_current_modes():
                made = func(*args, **kwargs)
        self.count(made)
        return made


def _keeps_values(func: Any, made: torch.Tensor) -> bool:
    drawn = torch.Tag.nondeterministic_seeded in func.tags  # would move the generator on
    return not drawn and all(
        one.untyped_storage().nbytes() <= _VALUES_BYTES for one in tree_iter(made) if isinstance(one, torch.Tensor)
    )


def _traced(
    model: nn.Module,
    rows: Mapping[str, torch.Tensor],
    config: QKOVConfig,
    weights: Sequence[LinearWeight] | None,
    loss_fn: LossFunction,
) -> int:
    names = [name for group in module_capture.module_groups(config, weights) for name in group]
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), LiveBytes()

    def stand_in(one: torch.Tensor) -> torch.Tensor:
        with fake:
            made = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device="cpu")
            return torch.nn.Parameter(made, requires_grad=False) if isinstance(one, torch.nn.Parameter) else made

    with _replaced(model, stand_in):
        live.leave_out([*model.parameters(), *model.buffers()])
        live.count(rows)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager"),
            gradients.evaluation(model),
            fake,
            live,
        ):
            _run_pass(model, rows, names, loss_fn)
    return live.peak


def _run_pass(
    model: nn.Module, rows: Mapping[str, torch.Tensor], names: Sequence[str], loss_fn: LossFunction
) -> list[torch.Tensor]:
    """Do to tensors without values what ``gradients.collect_factors`` does to others."""
    with module_capture.captured_modules(model, names) as captured:
        result = loss_fn(model, rows)
        summed = result[0] if isinstance(result, tuple) else result
        names = [name for name in names if name in captured]
        edges = [captured[name].edge for name in names]
        verified = len(summed) > 1
        deltas = torch.autograd.grad(summed.sum(), edges, retain_graph=verified, allow_unused=True)  # type: ignore[arg-type]  # torch takes both at once
        if verified:
            torch.autograd.grad(
                summed,
                edges,  # type: ignore[arg-type]  # torch takes both at once
                grad_outputs=torch.ones_like(summed),
                retain_graph=True,
                allow_unused=True,
            )
        inputs = {id(captured[name].inputs.untyped_storage()): captured[name].inputs for name in names}
    captured.clear()
    del result, summed, edges
    return [one.clone() for one in (*inputs.values(), *deltas) if one is not None]
