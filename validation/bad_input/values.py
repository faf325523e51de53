"""Numbers: not finite, too large, too small, too many, or stored in an odd way."""

import functools
import types

import torch

import qkov
from qkov import errors, losses

from . import registry
from .ground import build_batch, build_model, require_reference
from .registry import require

case = functools.partial(registry.case, group="Numbers")


class _Spoil(torch.autograd.Function):
    """Hands a loss through and makes its gradient something else."""

    @staticmethod
    def forward(ctx, loss, factor):
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.where(grad == 0, grad, grad * ctx.factor), None  # 0 times NaN would spoil unmarked samples too


def _spoiling(factor):
    """The default loss with the gradient of marked samples multiplied by ``factor``, and a batch whose first is marked."""

    def loss(model, batch):
        batch = dict(batch)
        marked = batch.pop("marked")
        found, tokens = losses.causal_lm_loss(model, batch)
        return torch.where(marked, _Spoil.apply(found, factor), found), tokens

    return loss, build_batch() | {"marked": torch.tensor([True, False])}


def _scaled(factor):
    def loss(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        return found * factor, tokens

    return loss


@case(
    "a gradient is NaN",
    error=errors.NonFiniteError,
    status=3,
    says=("sample 's3'", "'model.layers.0.self_attn.q_proj.weight'", "432 of 432 entries", "non_finite='skip'"),
)
def nan_gradient(ground):
    """The error names sample, parameter and number of entries; nothing of the pass is kept."""
    loss, batch = _spoiling(float("nan"))
    ground.collect(batch, loss_fn=loss)


@case(
    "a gradient is infinite",
    error=errors.NonFiniteError,
    status=3,
    says=("sample 's3'", "'model.layers.0.self_attn.q_proj.weight'", "entries", "Check the weights and the loss"),
)
def infinite_gradient(ground):
    """The same for infinity."""
    loss, batch = _spoiling(float("inf"))
    ground.collect(batch, loss_fn=loss)


@case("a loss is NaN", error=errors.NonFiniteError, status=3, says=("sample 's4' has loss nan", "pad on the right"))
def nan_loss(ground):
    """The error names the sample and a common cause."""

    def loss(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        return torch.where(torch.arange(len(found)) == 1, float("nan") * found, found), tokens

    ground.collect(build_batch(), loss_fn=loss)


@case(
    "a gradient is NaN, and skipping was asked for",
    warning=errors.SkippedSamplesWarning,
    says=("task 'math'", "'s3'", "collector.skipped('math')", "speak for the samples that are left"),
    adds=True,
)
def nan_gradient_skipped(ground):
    """The sample is left out, listed with the reason and warned of; the others of its pass are kept."""
    loss, batch = _spoiling(float("nan"))
    ground.collect(batch, loss_fn=loss, non_finite="skip")
    require(list(ground.collector.skipped("math")) == ["s3"], "the sample is not listed")
    require("q_proj.weight" in ground.collector.skipped("math")["s3"], "the reason does not name the parameter")
    require(
        ground.collector.sample_ids("math") == ("s0", "s1", "s2", "s4"), "other samples than the good ones are kept"
    )


@case(
    "a model in float16",
    error=errors.PrecisionError,
    status=3,
    says=("'model.layers.0.self_attn.q_proj' runs in float16", "load the model in float32 or bfloat16"),
)
def float16_model(ground):
    """Refused: gradients underflow in float16, silently."""
    ground.collect_anew(build_model(dtype=torch.float16), build_batch())


@case("a model in bfloat16")
def bfloat16_model(ground):
    """Gradients are those of float64 but for the eight bits of the format; they are handed out in float32."""
    model, batch = build_model(dtype=torch.bfloat16), build_batch()
    collector = ground.collect_anew(model, batch)
    require_reference(collector, "math", (0, 1), model, batch, bound=0.1)
    kinds = {grad.dtype for grad in collector.get_sample_gradients("math", 0).values()}
    require(kinds == {torch.float32}, f"gradients are of {kinds}")


@case(
    "bfloat16: squared gradients overflow",
    error=errors.NonFiniteError,
    status=3,
    says=("layer 0, block Q, slice 0", "Scale the loss down, or collect in float64"),
    adds=True,
)
def squares_overflow(ground):
    """Collected, as the gradients are finite; the scores are refused by layer and block."""
    model = build_model(dtype=torch.bfloat16)
    collector = ground.collect_anew(model, build_batch(), loss_fn=_scaled(1e30))
    ground.metric(collector).compute_heatmap("math", "math", progress=False)


@case(
    "bfloat16: squared gradients underflow",
    warning=errors.UnderflowWarning,
    says=("layers 0, 1", "Scale the loss up", "collect in float64"),
)
def squares_underflow(ground):
    """Scores are 0 and a warning says why; in float64 the same samples have scores."""
    found = {}
    for dtype in (torch.bfloat16, torch.float64):
        collector = ground.collect_anew(build_model(dtype=dtype), build_batch(), loss_fn=_scaled(1e-30))
        found[dtype] = ground.metric(collector).compute_heatmap("math", "math", progress=False)["V"]["scores"]
    require(not found[torch.bfloat16].any(), "scores are not 0 after underflow")
    require(found[torch.float64].all(), "scores in float64 are 0")


@case("weights that are denormal numbers")
def denormal_weights(ground):
    """Gradients are those of the reference: nothing is flushed to 0."""
    model, batch = build_model(), build_batch()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(1e-310)
    require(bool((model.model.layers[0].self_attn.v_proj.weight != 0).all()), "the weights were flushed to 0")
    require_reference(ground.collect_anew(model, batch), "math", (0, 1), model, batch)


@case("weights that are negative zeros")
def negative_zero_weights(ground):
    """Scores are the same bits as with positive zeros."""
    scores = []
    for zero in (0.0, -0.0):
        model = build_model()
        with torch.no_grad():
            model.model.layers[1].self_attn.k_proj.weight[:4] = zero
        collector = ground.collect_anew(model, build_batch())
        scores.append(ground.metric(collector).compute_heatmap("math", "math", progress=False).arrays)
    same = all(scores[0][block].tobytes() == scores[1][block].tobytes() for block in "QKVO")
    require(same, "the sign of a zero changes scores")


@case("weights that are not contiguous in memory")
def strided_weights(ground):
    """Gradients are those of the reference, in the stored orientation."""
    model, batch = build_model(), build_batch()
    for name in ("q_proj", "v_proj", "o_proj"):
        projection = getattr(model.model.layers[0].self_attn, name)
        projection.weight = torch.nn.Parameter(projection.weight.detach().T.contiguous().T)
        require(not projection.weight.is_contiguous(), "the weight is contiguous")
    require_reference(ground.collect_anew(model, batch), "math", (0, 1), model, batch)


@case(
    "a heatmap of more than 2^31 scores",
    error=errors.MemoryLimitError,
    status=8,
    says=("1000000 x 1000000 samples on 2 layers", "32,000,000,000,000 scores", "max_samples_per_task"),
)
def too_many_scores(ground):
    """Counted in integers of any size and refused before anything is allocated."""
    many = (types.SimpleNamespace(sample_id=0, num_tokens=1),) * 10**6
    crowd = types.SimpleNamespace(
        config=ground.collector.config,
        tasks=("math", "code"),
        samples=lambda task: many,
        contribution_normalisation="tokens",
        ema_decay=0.99,
    )
    metric = qkov.QKOVInterferenceMetric(crowd.config, crowd)
    metric.compute_heatmap("math", "code", progress=False)
