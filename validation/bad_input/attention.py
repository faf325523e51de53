"""Models whose heads lie oddly, cannot be told, or have no weights of their own."""

import contextlib
import dataclasses
import functools

import torch
from torch import nn

import qkov
from qkov import errors, locate, packings
from qkov.linear import qualified_name

from .. import architectures, families, synthetic, tiny_models
from . import registry
from .ground import build_batch, build_model, require_reference
from .registry import require

case = functools.partial(registry.case, group="Attention and weights")
_REFUSED = {"error": errors.LayoutError, "status": 4}


@case(
    "a weight tied between two layers",
    says=("'model.layers.0.self_attn.v_proj.weight' and 'model.layers.1.self_attn.v_proj.weight'", "Untie them"),
    **_REFUSED,
)
def tied_weights(ground):
    """Refused: its gradient belongs to no single layer."""
    model = build_model()
    model.model.layers[1].self_attn.v_proj.weight = model.model.layers[0].self_attn.v_proj.weight
    ground.collect_anew(model, build_batch())


@case(
    "an attention module shared by two layers",
    says=(
        "'model.layers.1.self_attn'",
        "the same object as 'model.layers.0.self_attn'",
        "expected one module per layer",
    ),
    **_REFUSED,
)
def shared_module(ground):
    """Refused."""
    model = build_model()
    model.model.layers[1].self_attn = model.model.layers[0].self_attn
    ground.collect_anew(model, build_batch())


class Linear4bit(nn.Linear):
    """Stands for a linear layer of a quantisation library: a subclass of torch's."""


@case(
    "projections of a quantisation library",
    says=("'model.layers.0.self_attn'", "Linear4bit", "load the model without quantisation, or dequantise it"),
    **_REFUSED,
)
def quantised_layers(ground):
    """Refused by the class of the projection."""
    model = build_model()
    model.model.layers[0].self_attn.q_proj.__class__ = Linear4bit
    ground.collect_anew(model, build_batch())


@case(
    "weights in eight bits",
    says=("'model.layers.0.self_attn.k_proj'", "torch.float8_e4m3fn", "load the model without quantisation"),
    **_REFUSED,
)
def eight_bits(ground):
    """Refused, integers and floats of eight bits alike: scales beside them are not known."""
    model = build_model()
    projection = model.model.layers[0].self_attn.k_proj
    projection.weight = nn.Parameter(projection.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    ground.collect_anew(model, build_batch())


@case(
    "weights on the meta device",
    says=(
        "'model.embed_tokens.weight' of LlamaForCausalLM is on the meta device",
        "Load the whole model on one device",
    ),
    **_REFUSED,
)
def meta_weights(ground):
    """Refused: there are no values."""
    ground.collect_anew(build_model().to("meta"), build_batch())


@case(
    "some weights offloaded",
    says=("'model.layers.1.self_attn.q_proj.weight'", "were offloaded", "without device_map offloading"),
    **_REFUSED,
)
def offloaded_weights(ground):
    """Refused by the first weight that is not there."""
    model = build_model()
    model.model.layers[1].to("meta")
    ground.collect_anew(model, build_batch())


@case(
    "a number of heads that is no multiple of the number of kv heads",
    says=("'model.layers.0.self_attn' has 6 query heads and 4 kv heads", "a positive multiple"),
    **_REFUSED,
)
def heads_not_divisible(ground):
    """Refused where the layout is stated."""
    dataclasses.replace(ground.collector.config.layers[0], num_kv_heads=4)


@case(
    "a configuration that states other heads than the weights have",
    says=("'model.layers.0.self_attn'", "num_heads = 6; expected 9", "register_layout"),
    **_REFUSED,
)
def other_heads_stated(ground):
    """Refused: weights and configuration contradict each other."""
    model = build_model("llama")
    for layer in model.model.layers:
        layer.self_attn.config.num_attention_heads = 9
    ground.collect_anew(model, build_batch())


@case("values of another width than keys")
def other_value_width(ground):
    """Each block is cut by its own width; gradients are the reference's."""
    model, batch = synthetic.SyntheticLM(synthetic.SyntheticConfig(head_dim=4, v_head_dim=3)).eval(), build_batch()
    collector = ground.collect_anew(model, batch)
    layout = collector.config.layers[0]
    require((layout.head_dim, layout.v_head_dim) == (4, 3), "the widths are not told apart")
    shapes = {block: layout.projection(block).width for block in "QKVO"}
    require(shapes == {"Q": 4, "K": 4, "V": 3, "O": 3}, f"slices are {shapes} wide")
    require_reference(collector, "math", (0, 1), model, batch)


class _Misdeclared(synthetic.SyntheticAttention):
    """Attention whose fused projection lies another way than its layout says."""


@contextlib.contextmanager
def _misdeclared():
    """Declare its layout until the block ends."""
    qkov.register_layout(
        _Misdeclared, functools.partial(packings.interleaved_layout, fused="fused", output="output")
    )  # fmt: skip
    try:
        yield
    finally:
        del locate._FINDERS[qualified_name(_Misdeclared)]


def _equal_widths():
    config = synthetic.SyntheticConfig(packing="concatenated", num_heads=3, num_kv_heads=3, head_dim=3, v_head_dim=3)
    return synthetic.SyntheticLM(config).eval()


@case(
    "a fused projection declared in the wrong order",
    says=("SyntheticLM is not what the model computes", "Register the right one with qkov.register_layout"),
    **_REFUSED,
)
def wrong_fused_order(ground):
    """Every shape fits; the experiment of prove_layout contradicts it and names the checks that do."""
    model = _equal_widths()
    for module in [one for one in model.modules() if type(one) is synthetic.SyntheticAttention]:
        module.__class__ = _Misdeclared
    with _misdeclared():
        qkov.prove_layout(model, build_batch(), progress=False)


class _UnknownAttention(synthetic.SyntheticAttention):
    """Attention of a class that nobody has declared."""


@case(
    "a fused projection whose order nobody has declared",
    says=("'layers.0.attention'", "where its heads lie is not known", "register_layout(_UnknownAttention, finder)"),
    **_REFUSED,
)
def unknown_fused_order(ground):
    """Refused by name, never guessed from shapes."""
    model = _equal_widths()
    model.layers[0].attention.__class__ = _UnknownAttention
    ground.collect_anew(model, build_batch())


@case("multi-latent attention")
def latent_attention(ground):
    """K and V are the head's own parts of the weight that expands the latent; gradients are the reference's."""
    model, inputs = tiny_models.build(architectures.ARCHITECTURES["deepseek_v3"])
    batch = {"input_ids": inputs["input_ids"].repeat(2, 1)}
    batch["input_ids"][1, 2] = 5
    collector = ground.collect_anew(model, batch)
    require({layout.packing for layout in collector.config.layers} == {"multi-latent"}, "the packing is another")
    require_reference(collector, "math", (0, 1), model, batch)


@case(
    "attention of which no head can be cut out",
    says=("DiffLlamaAttention", "two query heads are subtracted", "Pass a model, or a part of it, without this module"),
    **_REFUSED,
)
def refused_attention(ground):
    """Refused with the reason that holds for its class."""
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
    model, _ = tiny_models.build(tiny_models.Architecture("diffllama", "DiffLlamaForCausalLM", sizes=sizes))
    ground.collect_anew(model, build_batch())


@case(
    "a model without attention",
    says=("Sequential contains no known attention module", "Declare the layout"),
    **_REFUSED,
)
def no_attention(ground):
    """Refused, naming what modules there are."""
    ground.collect_anew(nn.Sequential(nn.Embedding(families.VOCAB_SIZE, 8), nn.Linear(8, 8)), build_batch())


@case(
    "a model whose weights have changed since the first collection",
    error=errors.ModelChangedError,
    status=4,
    says=("gradients of other weights than the model's current ones", "a new FisherCollector"),
)
def changed_weights(ground):
    """Refused: scores across the two would mean nothing."""
    with torch.no_grad():
        ground.model.lm_head.weight[0, 0] += 1
    ground.collect(build_batch())
