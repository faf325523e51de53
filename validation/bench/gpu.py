"""Scoring on a CUDA device, beside the square float32 product of cuBLAS without TF32, by CUDA events."""

import statistics

import torch

import qkov

from . import shapes
from .goals import Measured, NotRunError
from .scoring import forget

SQUARE = 8192
CALLS = 5
DEVICE = "cuda"


def event_seconds(run):
    """Seconds between two events around a call, on the device's own clock, all of its work done."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def cases(sizes):
    """``{name: (layout, n, T)}``: one layer of GPT-2 small, and one as wide as Llama-3-8B's."""
    small = shapes.layout_of(shapes.gpt2, sizes, layers=1)
    if sizes.quick:
        return {"GPT-2 small": (small, sizes.samples, sizes.tokens)}
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=4096, intermediate_size=16, num_hidden_layers=1, num_attention_heads=32,
        num_key_value_heads=8, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    wide = qkov.QKOVConfig.from_model(transformers.LlamaForCausalLM(config))
    return {"GPT-2 small": (small, 100, sizes.tokens), "Llama-3-8B": (wide, 100, 512)}


def measure(sizes, say=None):
    """Rate of each case over the square product's, timed before and after; the goal is the lower of them.

    Raises:
        NotRunError: Without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise NotRunError("torch finds no CUDA device")
    was = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return _measure(sizes, say)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = was


def _measure(sizes, say):
    edge = 256 if sizes.quick else SQUARE
    one, other = torch.randn(2, edge, edge, device=DEVICE)

    def square():
        for _ in range(CALLS):
            torch.mm(one, other)

    def square_rate():
        return 2.0 * CALLS * edge**3 / event_seconds(square)

    rows = {}
    for name, (config, n, length) in cases(sizes).items():
        pool = shapes.RandomFactors(config, 2 * n * length, device=DEVICE)
        collector = pool.collector(n, n, length)
        metric = qkov.QKOVInterferenceMetric(config, collector, computation_device=DEVICE, min_samples_for_fisher=1)
        operations = shapes.scoring_operations(shapes.slice_parameters(config), n, n, length)
        square_rate()
        metric.compute_heatmap("a", "b", progress=False)
        rates, seconds, squares = [], [], []
        for _ in range(max(3, sizes.repeats)):
            forget(collector)
            before = square_rate()
            seconds.append(event_seconds(lambda metric=metric: metric.compute_heatmap("a", "b", progress=False)))
            squares.append((before + square_rate()) / 2)
            rates.append(operations / seconds[-1] / squares[-1])
        rows[name] = {"rate": statistics.median(rates), "rates": rates, "seconds": seconds, "operations": operations,
                      "square product, operations per second": statistics.median(squares), "n": n, "T": length}  # fmt: skip
        if say is not None:
            say(f"{name}: {statistics.median(seconds):.4f} s, {rows[name]['rate']:.2f} of the square product")
        del pool, collector, metric
        torch.cuda.empty_cache()
    worst = min(rows, key=lambda name: rows[name]["rate"])
    said = f"{torch.cuda.get_device_name()}, float32, TF32 off; worst of {', '.join(rows)}: {worst}; one layer, random factors"
    return Measured(values={"gpu": rows[worst]["rate"]}, conditions={"gpu": said}, details={"cells": rows})
