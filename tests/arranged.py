"""Collectors whose gradients are given: a layout of single-head layers, and factors that multiply to the given matrices."""

import numpy as np
import torch

import qkov
from qkov import gradients, samples
from qkov.geometry import AttentionLayout, Projection
from qkov.layout import QKOVConfig


def layout(layer, rows, columns):
    """One head; Q, K and V store a gradient as it is, O stores its transpose, as ``nn.Linear`` does."""
    projections = []
    for block in "QKVO":
        name = f"layers.{layer}.{block.lower()}"
        shape, axis, side = ((columns, rows), 1, "input") if block == "O" else ((rows, columns), 0, "output")
        projections.append(Projection(block, name, f"{name}.weight", None, shape, axis, side, (0,), rows))
    return AttentionLayout(layer, f"layers.{layer}", "split", 1, 1, rows, rows, columns, tuple(projections))


def collector_of(*, rows, columns, **tasks):
    """Make a collector whose samples have the given gradients and one token each.

    Args:
        rows, columns: Of every slice.
        **tasks: Gradients ``[samples, slices, rows * columns]``; slices come layer by layer, Q, K, V, O. Ids are
            "task-number" from 100 down, so that no id is a position.
    """
    num_slices = {grads.shape[1] for grads in tasks.values()}.pop()
    collector = qkov.FisherCollector()
    collector.config = QKOVConfig(tuple(layout(layer, rows, columns) for layer in range(num_slices // 4)))
    collector.model_fingerprint = "given"
    names = [one.module_name for part in collector.config.layers for one in part.projections]
    for task, grads in tasks.items():
        ids = [f"{task}-{100 - row}" for row in range(len(grads))]
        collector._tasks[task] = {
            one: samples.Sample(one, None, 1, f"{task}{one}", _factors(names, grad.reshape(-1, rows, columns)))
            for one, grad in zip(ids, grads, strict=True)
        }
    return collector


def _factors(names, matrices):
    eye = torch.eye(matrices.shape[1], dtype=torch.float64)
    pairs = [(eye, torch.as_tensor(np.ascontiguousarray(matrix), dtype=torch.float64)) for matrix in matrices]
    # The gradient of a slice is the head's own columns of one factor times the other: delta for Q, K, V, inputs for O.
    return {
        name: gradients.Factors(inputs=eye, deltas=matrix) if name.endswith(".o") else gradients.Factors(matrix, eye)
        for name, (eye, matrix) in zip(names, pairs, strict=True)
    }
