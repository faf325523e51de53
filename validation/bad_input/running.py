"""In what state model and caller are, what mixes samples, and what a pass may run out of."""

import contextlib
import copy
import functools
import importlib.util
import logging

import torch
import transformers
from torch import nn

import qkov
from qkov import errors, interference, losses, passes, reproducibility

from .. import families, synthetic
from . import registry
from .ground import build_batch, build_model, require_reference
from .registry import require

case = functools.partial(registry.case, group="Running the model")


def _no_gpu():
    return "" if torch.cuda.is_available() else "torch finds no CUDA device"


def _gpu():
    return "torch finds a CUDA device, so nothing is missing" if torch.cuda.is_available() else ""


@case("a model in train mode, with dropout")
def train_mode(ground):
    """Runs in eval mode, so that gradients are the reference's; every module is in train mode again afterwards."""
    model, batch = build_model("gpt2"), build_batch()
    dropout = [one.p for one in model.modules() if isinstance(one, nn.Dropout)]
    require(any(dropout), "the model has no dropout")
    model.train()
    require_reference(ground.collect_anew(model, batch), "math", (0, 1), model, batch)
    require(all(module.training for module in model.modules()), "the model was left in another mode")


@case("frozen parameters")
def frozen_parameters(ground):
    """Gradients are the reference's; what was frozen stays so, and the rest stays trainable."""
    model, batch = build_model(), build_batch()
    frozen = {name for name, parameter in model.named_parameters() if ".0." in name}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    require_reference(ground.collect_anew(model, batch), "math", (0, 1), model, batch)
    left = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    require(left == frozen, "other parameters are frozen than before")
    require(all(parameter.grad is None for parameter in model.parameters()), "gradients were left in parameters")


@case("a caller under no_grad or inference_mode")
def without_gradients(ground):
    """Gradients are the reference's in both."""
    for context in (torch.no_grad, torch.inference_mode):
        model, batch = build_model(), build_batch()
        with context():
            collector = ground.collect_anew(model, batch)
        require_reference(collector, "math", (0, 1), model, batch)


@case("gradient checkpointing, where forward hooks run twice")
def checkpointing(ground):
    """Gradients are the reference's; the second run is not counted."""
    model, batch = build_model(), build_batch()
    reference_model = copy.deepcopy(model)
    model.gradient_checkpointing_enable()
    model.train()
    require_reference(ground.collect_anew(model, batch), "math", (0, 1), reference_model, batch)


def _with_norm(**options):
    """A model with a norm over the batch behind its embedding."""
    model = synthetic.SyntheticLM(synthetic.SyntheticConfig())
    model.embedding = nn.Sequential(model.embedding, _BatchNorm(model.config.hidden_size, **options)).double()
    return model.train()


class _BatchNorm(nn.BatchNorm1d):
    """Over features, the last axis."""

    def forward(self, hidden):
        return super().forward(hidden.transpose(1, 2)).transpose(1, 2)


@case("batch normalisation with running statistics, in train mode")
def batch_norm(ground):
    """Runs in eval mode, where it mixes nothing: gradients are the reference's, and the statistics do not move."""
    model, batch = _with_norm(), build_batch((5, 5))
    before = copy.deepcopy(model.embedding[1].state_dict())
    require_reference(ground.collect_anew(model, batch), "math", (0, 1), model, batch)
    same = all(torch.equal(value, before[name]) for name, value in model.embedding[1].state_dict().items())
    require(same, "running statistics have moved")


_MIXES = {"error": errors.BatchError, "status": 3}


@case(
    "batch normalisation without running statistics",
    says=(
        "'embedding.1' (_BatchNorm) normalises by the statistics of all 2 samples",
        "track_running_stats",
        "micro_batch=1",
    ),
    **_MIXES,
)
def norm_over_the_batch(ground):
    """Refused by name; one sample at a time is possible, and the remedy says so."""
    ground.collect_anew(_with_norm(track_running_stats=False), build_batch((5, 5)))


def _compared(model, inputs, output):
    """Subtract the mean over samples from what a layer returns."""
    return output - output.mean(0, keepdim=True)


@case(
    "a model that compares samples between two attention layers",
    says=("projection 'layers.0.attention.query'", "The model or the loss mixes samples", "micro_batch=1"),
    **_MIXES,
)
def samples_compared(ground):
    """Seen from gradients and refused."""
    model = synthetic.SyntheticLM(synthetic.SyntheticConfig())
    model.layers[0].register_forward_hook(_compared)
    ground.collect_anew(model, build_batch((5, 5)))


@case("a model that compares samples below its first attention layer", adds=True)
def samples_compared_below(ground):
    """Gradients do not show it, so collecting does not refuse it; check_model does, by its law of isolation."""
    model = synthetic.SyntheticLM(synthetic.SyntheticConfig())
    model.embedding.register_forward_hook(_compared)
    batch = build_batch((5, 5))
    ground.collect_anew(model, batch)
    (result,) = qkov.check_model(model, batch, batch, checks=["isolation"], progress=False)
    require(result.status == "failed", "check_model does not see it")


def _mixture():
    config = transformers.MixtralConfig(
        vocab_size=families.VOCAB_SIZE, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, output_router_logits=True,
        router_aux_loss_coef=0.5, attn_implementation="eager",
    )  # fmt: skip
    return synthetic.draw_weights(transformers.MixtralForCausalLM(config), 3).eval()


@case(
    "a mixture of experts whose auxiliary loss is added: it is one of the whole batch",
    says=("projection 'model.layers.0.self_attn.q_proj'", "a loss that compares samples", "micro_batch=1"),
    **_MIXES,
)
def auxiliary_loss(ground):
    """Seen from gradients and refused."""

    # One forward pass for both parts of the loss.
    def together(model, batch):
        out = model(**batch, position_ids=losses.position_ids(batch), use_cache=False)
        labels = losses.target_labels(batch)[:, 1:]
        per_token = nn.functional.cross_entropy(
            out.logits[:, :-1].transpose(1, 2), labels, ignore_index=losses.IGNORED, reduction="none"
        )
        return per_token.sum(1) + out.aux_loss

    ground.collect_anew(_mixture(), build_batch(), loss_fn=together)


@case("a mixture of experts with an auxiliary loss in training, by the default loss")
def mixture_of_experts(ground):
    """The default loss is the tokens' alone: a sample's gradient is the same alone and beside others."""
    model, batch = _mixture(), build_batch()
    collector = ground.collect_anew(model, batch)
    grads = ground.collect_anew(model, batch, micro_batch=1).get_sample_gradients("math", 1)
    for name, grad in collector.get_sample_gradients("math", 1).items():
        scale = float(grads[name].abs().max()) or 1.0
        require(float((grad - grads[name]).abs().max()) <= 1e-4 * scale, f"{name} depends on the other sample")


@case(
    "a model that runs a projection twice",
    error=errors.ModuleReuseError,
    status=4,
    says=("projection 'model.layers.0.self_attn.q_proj' ran 2 times", "call the model once per loss"),
)
def called_twice(ground):
    """Refused: its gradient would mix two passes."""

    def twice(model, batch):
        losses.causal_lm_loss(model, batch)
        return losses.causal_lm_loss(model, batch)

    ground.collect(build_batch(), loss_fn=twice)


@case(
    "flash-attention where deterministic algorithms are asked for",
    error=errors.OptionError,
    status=2,
    says=("attn_implementation='flash_attention_2'", "in another order in every run", "attn_implementation='sdpa'"),
)
def flash_attention(ground):
    """Refused: its query gradients differ from run to run, and torch's own switch does not reach it."""
    model = build_model()
    model.config._attn_implementation = "flash_attention_2"
    with reproducibility.deterministic():
        ground.collect_anew(model, build_batch())


class _Adapted(nn.Module):
    """What peft puts around a linear layer: the same class name, the same place of the base layer."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_a = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.lora_b = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)
        synthetic.draw_weights(self.lora_a, 4)
        synthetic.draw_weights(self.lora_b, 5)

    def forward(self, inputs):
        return self.base_layer(inputs) + self.lora_b(self.lora_a(inputs))


_Adapted.__module__, _Adapted.__qualname__ = "peft.tuners.lora.layer", "Linear"


@case("projections wrapped by LoRA")
def lora(ground):
    """Gradients are those of the base weights, with the adapters acting, under the base weights' names."""
    model, batch = build_model(), build_batch()
    for layer in model.model.layers:
        layer.self_attn.q_proj = _Adapted(layer.self_attn.q_proj)
    collector = ground.collect_anew(model, batch)
    name = collector.config.layers[0].projection("Q").param_name
    require(name == "model.layers.0.self_attn.q_proj.base_layer.weight", f"the parameter is called {name}")
    require_reference(collector, "math", (0, 1), model, batch)


@case("projections wrapped by the peft package", missing=lambda: _package("peft"))
def lora_of_peft(ground):
    """The same with the package itself."""
    import peft

    model, batch = build_model(), build_batch()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    require_reference(ground.collect_anew(adapted, batch), "math", (0, 1), adapted, batch)


def _package(name):
    return "" if importlib.util.find_spec(name) else f"the package {name} is not installed"


@contextlib.contextmanager
def _little_memory(most):
    """An accelerator that holds no more than so many samples in a pass, and what the log says of it."""
    original, sizes, lines = passes.gradients.collect_factors, [], []

    def collect_factors(model, batch, *rest):
        size = len(batch["input_ids"])
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(size)
        return original(model, batch, *rest)

    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger(passes.__name__)
    logger.addHandler(handler)
    passes.gradients.collect_factors = collect_factors
    try:
        yield sizes, lines
    finally:
        passes.gradients.collect_factors = original
        logger.removeHandler(handler)


@case("an accelerator out of memory in a pass", adds=True)
def out_of_memory(ground):
    """The pass is halved until it fits, which the log says; gradients are the reference's."""
    batch = build_batch((5, 4, 6, 3, 5))
    with _little_memory(2) as (sizes, lines):
        ground.collect(batch, "more")
    require(sizes == [2, 2, 1], f"passes were of {sizes} samples")
    require(lines == ["out of memory with 5 samples per pass; at most 2 from here on"], f"the log says {lines}")
    require_reference(ground.collector, "more", [f"s{3 + row}" for row in range(5)], ground.model, batch)


@case(
    "a single sample that does not fit the memory",
    error=errors.MemoryLimitError,
    status=8,
    says=("a single sample, 's3', does not fit the memory", "Shorten it", "earlier samples are kept"),
)
def sample_out_of_memory(ground):
    """The error names the sample."""
    with _little_memory(0):
        ground.collect(build_batch())


@case(
    "an accelerator out of memory while scoring",
    error=errors.MemoryLimitError,
    status=8,
    says=("layer 0, block Q, slice 0", "Lower tile_elements"),
)
def scores_out_of_memory(ground):
    """Samples are taken in smaller and smaller blocks; what does not fit one at a time is refused."""

    def full(*_arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    original, interference.scoring.score_slice = interference.scoring.score_slice, full
    try:
        ground.metric().compute_heatmap("math", "code", progress=False)
    finally:
        interference.scoring.score_slice = original


@case("an interrupt between two passes", adds=True)
def interrupted(ground):
    """The passes before it are kept, the one that was running is not, and the same call goes on from there."""
    batch, seen = build_batch((5, 4, 6)), []

    def loss(model, part):
        seen.append(len(part["input_ids"]))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return losses.causal_lm_loss(model, part)

    with contextlib.suppress(KeyboardInterrupt):
        ground.collect(batch, "more", loss_fn=loss, micro_batch=1)
    require(ground.collector.sample_ids("more") == ("s3", "s4"), "other samples are kept than those of whole passes")
    ground.collect(batch, "more", loss_fn=loss, micro_batch=1)
    require(ground.collector.sample_ids("more") == ("s3", "s4", "s5"), "the call did not go on where it ended")
    require(len(seen) == 4, "known samples ran again")


@case(
    "scores on a GPU that is not there",
    error=errors.OptionError,
    status=2,
    says=("computation_device='cuda'", "torch finds no CUDA device", "Use 'cpu' or 'auto'"),
    missing=_gpu,
)
def missing_gpu(ground):
    """Refused, never quietly made on the CPU."""
    ground.metric(computation_device="cuda")


@case(
    "a token that the model does not have, on a GPU",
    error=errors.BatchError,
    status=3,
    says=("has a token", "own tokenizer"),
    missing=_no_gpu,
)
def token_out_of_range_on_a_gpu(ground):
    """Refused before the kernel, after whose failure no call on this device would work."""
    batch = build_batch()
    batch["input_ids"][1, 2] = families.VOCAB_SIZE
    model = build_model().cuda()
    try:
        ground.collect_anew(model, batch)
    finally:
        require(float(torch.ones(2, device="cuda").sum()) == 2, "the device does not work any more")
