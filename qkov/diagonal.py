r"""The empirical Fisher diagonal of one task, weight by weight, keyed like the checkpoint.

.. math:: F_k = \frac1n \sum_i C_{ik}, \qquad C_{ik} = h_{ik}^2, \qquad h_i = g_i / \sqrt{tokens_i}

with ``g_i`` the gradient of sample i's summed token loss. Each sample is squared before anything is added: the square of
the mean gradient is another quantity, smaller about n times where samples disagree.

There are two ways to it, which add the same numbers in the same order and so give the same bits. From a collector,
whose factors serve every other analysis as well: :meth:`FisherDiagonal.of`. Or at once, where nothing else is wanted:
:func:`collect_fisher_diagonal` takes each sample's factors as soon as its pass ends, adds up and drops them, so that
memory does not grow with the number of samples.

The file is for any program that reads safetensors: its tensors are F and nothing else, under the names of the
checkpoint's parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from . import (
    collector as collecting,
)
from . import (
    errors,
    formula,
    gradients,
    labels,
    layout,
    linear_weights,
    losses,
    parts,
    passes,
    reproducibility,
    result_file,
    sample_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import nn

    from .collector import FisherCollector
    from .layout import QKOVConfig
    from .linear_weights import LinearWeight
    from .option_types import Batches, ContributionNormalisation, LossFunction, PathLike, SampleId
    from .samples import Sample


__all__ = ["FisherDiagonal", "collect_fisher_diagonal", "load_fisher_diagonal"]

FORMAT_NAME = "qkov-fisher-diagonal"
MEAN_FORMAT_NAME = "qkov-gradient-mean"
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FisherDiagonal:
    """Hold the Fisher diagonal of a task.

    Attributes:
        task: Its name.
        values: ``{param_name: F}`` in the stored shape of the weight, float32 or float64, on the CPU: the mean over
            samples of the contributions, in units of squared gradient. Biases and norms are not held.
        grad_mean: ``{param_name: mean over samples of the raw g_i}``, same shapes; empty where it was not loaded.
        weights: A :class:`qkov.linear_weights.LinearWeight` for each entry, in the same order.
        config: Where the heads are, or None.
        num_samples: Number of samples n.
        attributes: JSON-able facts: ``contribution_normalisation``, ``labels`` ("data" or "sampled"),
            ``model_fingerprint``, ``sample_ids``, ``inputs_digest`` (of all samples in their order), ``left_out``
            (``{param_name: reason}``), ``versions``.

    Raises:
        EmptyTaskError: If there is no sample.
        ShapeError: If an entry does not fit its weight.
        NonFiniteError: If an entry of F is NaN, infinite or negative.
    """

    task: str
    values: dict
    grad_mean: dict
    weights: tuple
    config: object
    num_samples: int
    attributes: dict

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise errors.EmptyTaskError(f"task {self.task!r} has no samples; a Fisher diagonal needs at least one.")
        shapes = {one.param_name: tuple(one.weight_shape) for one in self.weights}
        for what, tensors in (("values", self.values), ("grad_mean", self.grad_mean or self.values)):
            found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            if found != shapes:
                wrong = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
                raise errors.ShapeError(
                    f"{what} of task {self.task!r} do not fit the weights at {wrong[:4]}: found "
                    f"{[found.get(name) for name in wrong[:4]]}, expected {[shapes.get(name) for name in wrong[:4]]}."
                )
            for name, tensor in tensors.items():
                if tensor.dtype not in (torch.float32, torch.float64) or not torch.isfinite(tensor).all():
                    raise errors.NonFiniteError(f"{what}[{name!r}] is not finite, or not float32 or float64.")
        for name, tensor in self.values.items():
            if (tensor < 0).any():
                raise errors.NonFiniteError(f"values[{name!r}] holds negative entries; a mean of squares has none.")
        object.__setattr__(self, "attributes", labels.plain_json(self.attributes))

    @classmethod
    def of(cls, collector: FisherCollector, task: str) -> FisherDiagonal:
        r"""Average the contributions of a collected task.

        Args:
            collector: A :class:`qkov.FisherCollector`; all its weights are averaged. task: One of its tasks.

        Returns:
            The same bits as :func:`collect_fisher_diagonal` from the same batches, ids and ``micro_batch``.

        Raises:
            UnknownTaskError: If the task was never collected.
            EmptyTaskError: If it holds no sample.
        """
        normalisation = collector.contribution_normalisation
        attributes = {
            "contribution_normalisation": normalisation,
            "model_fingerprint": collector.model_fingerprint,
            "left_out": dict(collector.left_out),
        }
        return _averaged(iter(collector.samples(task)), task, collector.weights, collector.config, attributes)

    def tensor_bytes(self) -> int:
        """Return the memory of ``values``, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.values.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in the result but the mean gradient, in hex."""
        return result_file.digest(*self._parts())

    def identical(self, other: object) -> bool:
        """Tell whether ``other`` has the same facts and every bit of every array of F."""
        return isinstance(other, FisherDiagonal) and self.fingerprint == other.fingerprint

    def save(self, path: PathLike, *, grad_mean: PathLike | None = None) -> Path:
        """Write one safetensors file whose tensors are F, keyed as in the checkpoint; atomically, equal bytes if equal.

        Args:
            path: Where to. One metadata key, "qkov", holds the facts as JSON, with a checksum.
            grad_mean: Path of a second file for the mean gradient, same keys; None leaves it out.

        Returns:
            ``path``.

        Raises:
            OptionError: If the mean gradient is asked for and was not loaded.
        """
        if grad_mean is not None:
            if not self.grad_mean:
                raise errors.OptionError("this result was loaded without its mean gradient; there is none to save.")
            arrays = {name: tensor.numpy() for name, tensor in self.grad_mean.items()}
            content = {"task": self.task, "fisher": self.fingerprint}
            result_file.write(grad_mean, content, arrays, format_name=MEAN_FORMAT_NAME, format_version=FORMAT_VERSION)
        return result_file.write(path, *self._parts(), format_name=FORMAT_NAME, format_version=FORMAT_VERSION)

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        content = {
            "task": self.task,
            "num_samples": self.num_samples,
            "attributes": self.attributes,
            **parts.describe_layout(self.weights, self.config),
        }
        return content, {name: tensor.numpy() for name, tensor in self.values.items()}

    def __repr__(self) -> str:
        size = sum(tensor.numel() for tensor in self.values.values())
        whose = "of the data" if self.attributes.get("labels") == "data" else self.attributes.get("labels")
        return (
            f"<FisherDiagonal of {self.task!r}: {len(self.values)} weights, {size} parameters, {self.num_samples} "
            f"samples, labels {whose}. Means of squared per-sample gradients: how sensitive the loss is to each parameter "
            "alone, in its present coordinates; nothing about parameters together, and nothing about a sign.>"
        )


def collect_fisher_diagonal(
    model: nn.Module,
    batch: Batches,
    task: str,
    *,
    weights: str | Iterable[str] = ("attention", "mlp"),
    loss_fn: LossFunction | None = None,
    micro_batch: int | None = None,
    sample_ids: Iterable[SampleId] | None = None,
    progress: bool = True,
    contribution_normalisation: ContributionNormalisation = "tokens",
    attention: str | None = None,
) -> FisherDiagonal:
    r"""Measure the Fisher diagonal of a task without keeping its samples.

    .. math:: F_k = \frac1n \sum_i h_{ik}^2, \qquad h_i = g_i / \sqrt{tokens_i} \text{ ("tokens") or } g_i \text{ ("none")}

    One forward and one backward per pass; then, sample by sample and weight by weight, the gradient is built, squared
    and added in float64. Memory: the factors of one pass, the largest weight a few times, and 16 bytes for every
    parameter that is measured, on the model's device; it does not grow with the number of samples.

    Equal to ``FisherDiagonal.of`` a collector with the same ``weights``, bit for bit, where passes are the same (they
    are for equal batches, ``micro_batch`` and device). Other passes change the rounding of the model's own forward and
    backward, and nothing else: about 1e-6 relative in float32. So does a pass that was halved for want of memory.

    Args:
        model: As for :meth:`qkov.FisherCollector.collect_fisher`; left as it was.
        batch: Mapping ``[N, T]``, or an iterable of such.
        task: Its name.
        weights: Which weights; see :func:`qkov.linear_weights.find_linear_weights`.
        loss_fn, micro_batch, sample_ids, progress: As for ``collect_fisher``.
        contribution_normalisation: "tokens" or "none".
        attention: Which kind of attention, in a model with several.

    Returns:
        A :class:`FisherDiagonal`, with the mean gradient.

    Raises:
        EmptyTaskError: If there is no sample.
        BatchError, NonFiniteError, SampleIdError, LayoutError, OptionError: As for ``collect_fisher``.

    Example:
        >>> import torch, transformers
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        ...     num_key_value_heads=2)
        >>> model = transformers.LlamaForCausalLM(config)
        >>> found = collect_fisher_diagonal(model, {"input_ids": torch.arange(12).reshape(3, 4)}, "math")
        >>> found.values["model.layers.0.mlp.down_proj.weight"].shape, found.num_samples
        (torch.Size([16, 24]), 3)
    """
    formula.require_choice("contribution_normalisation", contribution_normalisation, formula.NORMALISATIONS)
    passes.check_call(task, micro_batch)
    model = layout.uncompiled(model)
    collecting.check_one_device(model)
    config = layout.QKOVConfig.from_model(model, attention=attention)
    found = linear_weights.find_linear_weights(model, config, weights)
    attributes = {
        "contribution_normalisation": contribution_normalisation,
        "model_fingerprint": reproducibility.model_fingerprint(model),
        "left_out": linear_weights.explain_left_out(model, config, weights),
    }
    ids = passes.Supply(sample_ids, "sample_ids")
    samples = passes.collect_samples(
        model, batch, task, {}, config, found, loss_fn or losses.causal_lm_loss, sample_rows.FirstAxis(), ids,
        passes.Supply(None, "clusters"), micro_batch=micro_batch, progress=progress,
    )  # fmt: skip
    result = _averaged(samples, task, found, config, attributes)
    ids.check_used(task)
    return result


def load_fisher_diagonal(path: PathLike, *, grad_mean: PathLike | None = None) -> FisherDiagonal:
    """Load what :meth:`FisherDiagonal.save` wrote, checked; nothing in it is executed.

    Args:
        path: The file of F. grad_mean: The file of the mean gradient, if there is one and it is wanted.

    Returns:
        The result, equal to the one that was saved.

    Raises:
        ResultFileError: If a file is not such a result, is damaged, contradicts itself, or the two do not belong
            together.
        OSError: If one cannot be opened.
    """
    content, arrays = result_file.read(path, format_name=FORMAT_NAME, format_version=FORMAT_VERSION)
    means: dict[Any, Any] = {}
    if grad_mean is not None:
        described, means = result_file.read(grad_mean, format_name=MEAN_FORMAT_NAME, format_version=FORMAT_VERSION)
    try:
        weights, config = parts.read_layout(content)
        names = [one.param_name for one in weights]
        if set(names) != set(arrays) or (means and set(names) != set(means)):
            raise errors.ResultFileError(f"{path} describes {len(names)} weights and holds {len(arrays)} arrays.")
        result = FisherDiagonal(
            task=content["task"],
            values={name: torch.from_numpy(arrays[name]) for name in names},
            grad_mean={name: torch.from_numpy(means[name]) for name in names} if means else {},
            weights=weights,
            config=config,
            num_samples=content["num_samples"],
            attributes=content["attributes"],
        )
    except (errors.QKOVError, KeyError, TypeError, ValueError) as error:
        raise errors.ResultFileError(f"{path} is not a consistent Fisher diagonal: {error!r}") from error
    if grad_mean is not None and described != {"task": result.task, "fisher": result.fingerprint}:
        raise errors.ResultFileError(f"{grad_mean} is the mean gradient of another result than {path}.")
    return result


def _averaged(
    samples: Iterator[Sample],
    task: str,
    weights: Sequence[LinearWeight],
    config: QKOVConfig,
    attributes: Mapping[str, Any],
) -> FisherDiagonal:
    """Add up samples one after another and divide; each is dropped before the next is asked for."""
    normalisation = attributes["contribution_normalisation"]
    sums, grad_sums, kinds, ids, inputs = {}, {}, {}, [], hashlib.sha256()
    while (one := next(samples, None)) is not None:
        tokens = torch.tensor([one.num_tokens])
        for weight in weights:
            name = weight.param_name
            grad = gradients.parameter_gradient(one.factors, weight)
            if name not in sums:
                sums[name] = torch.zeros_like(grad, dtype=torch.float64)
                grad_sums[name] = torch.zeros_like(sums[name])
                kinds[name] = grad.dtype
            h = formula.normalise(grad.reshape(1, -1), tokens, normalisation)
            sums[name] += formula.contribution(h).reshape(grad.shape)
            grad_sums[name] += grad
        ids.append(one.sample_id)
        inputs.update(one.digest.encode())
    if not ids:
        raise errors.EmptyTaskError(
            f"task {task!r} has no samples; a Fisher diagonal is a mean over at least one. Collect the task first."
        )

    def mean(totals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: (total / len(ids)).to("cpu", kinds[name]) for name, total in totals.items()}

    return FisherDiagonal(
        task=task,
        values=mean(sums),
        grad_mean=mean(grad_sums),
        weights=tuple(weights),
        config=config,
        num_samples=len(ids),
        attributes={
            "labels": "data",
            "sample_ids": ids,
            "inputs_digest": inputs.hexdigest(),
            "versions": {name: reproducibility.environment_record()["versions"][name] for name in ("qkov", "torch")},
            **attributes,
        },
    )
