"""What a tiny random model of a family of transformers is, and how to build it without any file or network.

float64, eager attention if possible, eval mode, weights from :func:`validation.synthetic.draw_weights`.

The tables of families were written with one version of transformers. An older one lacks some, and has other names or
defaults in others: there :func:`build` raises :class:`OlderTransformersError`, and what needed the family counts as not run.
"""

import copy
import functools
from dataclasses import dataclass, field

import torch
import transformers
from packaging.version import Version

from .synthetic import draw_weights

WRITTEN_WITH = "5.23.0"

# What an older version has, but with modules of other names, so that a kind of attention is not where the tables say; or in
# a form that does not run in float64, or not with these sizes.
OTHERWISE = {
    "clvp", "d_fine-decoder", "d_fine-encoder", "dbrx", "evolla", "fsmt-decoder", "groupvit_text", "led-cross",
    "led-decoder", "maskformer-cross", "maskformer-decoder", "mpt", "musicgen-cross", "musicgen-decoder",
    "musicgen_melody", "mvp-cross", "mvp-decoder", "mvp-encoder", "paddleocr_vl-vision", "pix2struct-vision",
    "recurrent_gemma", "rt_detr-decoder", "rt_detr-encoder", "rt_detr_v2-decoder", "rt_detr_v2-encoder",
    "seamless_m4t-adapter", "seamless_m4t-cross", "seamless_m4t-decoder", "seamless_m4t-encoder",
    "seamless_m4t-speech", "seamless_m4t_v2-adapter", "seamless_m4t_v2-cross", "seamless_m4t_v2-decoder",
    "seamless_m4t_v2-encoder", "seamless_m4t_v2-speech", "siglip-vision", "siglip2-vision", "speecht5-cross",
    "speecht5-decoder", "speecht5-encoder", "switch_transformers", "switch_transformers-cross",
    "switch_transformers-decoder", "switch_transformers-encoder", "trocr", "trocr-cross", "videomae", "vjepa2",
    "vjepa2-pooler", "vjepa2-predictor", "x_clip-text", "x_clip-vision",
}  # fmt: skip

VOCAB_SIZE = 13
TOKENS = (3, 7, 4, 9, 12, 5)

# Of encoder-decoders: the two parts differ in their number of heads, where the configuration states one of them.
TWO_PARTS = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 7,
    "decoder_ffn_dim": 7,
}
_SHARED = {
    "vocab_size": VOCAB_SIZE,
    "intermediate_size": 7,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Inputs other than token ids: the keyword and the shape of one sample.
_SHAPES = {
    "pixels": ("pixel_values", (1, 3, 8, 8)),
    "wave": ("input_values", (1, 200)),
    "mel": ("input_features", (1, 8, 12)),
    "spectrogram": ("input_values", (1, 16, 16)),
    "video": ("pixel_values", (1, 2, 3, 8, 8)),
    "embeds": ("inputs_embeds", (1, 6, 24)),
}


@dataclass(frozen=True)
class Architecture:
    """One family.

    Attributes:
        name: Key in the table.
        model_class: Name in transformers.
        packing: What the layout must say.
        sizes: Hidden size and heads, as the configuration calls them.
        options: The rest of the configuration; None leaves out what all share.
        inputs: ``"ids"`` or a key of ``_SHAPES``; with ``"+ids"`` for an encoder-decoder, whose decoder reads tokens too.
            Or ``{keyword: shape of one sample with its leading 1}`` of random numbers, ``"ids"`` instead of a shape.
        fixed: ``{keyword: nested lists, with a leading 1}`` of inputs that are the same for every sample: masks, sizes.
        joined: ``{keyword: axis}`` of inputs without an axis of samples, which the model takes for all of them in one
            sequence: they are joined along this axis as it is called.
        layers: Indices of the layers with attention.
        part: Path of the part of the model that is looked at, such as one of two towers.
        attention: Kind of attention, where the model or its part has several.
        coupling: Names of norms inside the attention that make heads depend on each other or give an absent query a
            direction, and of biases that are added to the query beside its projection and do the latter; for the
            experiment on the layout they are taken out.
        gated: Whether the query projection also holds rows of a gate, which belong to no block; for the experiment
            no gradient passes through the gate.
        implementation: Of attention, as transformers calls it: some classes exist for one of them alone.
        expected: What the layout must say where it is not ``sizes``: tuples where layers differ.
        outside: ``{check: reason}`` of the laws that do not cover this family.
        output: Name of the output that the loss is made of, where the first one does not depend on this attention.
    """

    name: str
    model_class: str
    packing: str = "split"
    sizes: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    inputs: str | dict = "ids"
    fixed: dict = field(default_factory=dict)
    joined: dict = field(default_factory=dict)
    layers: tuple[int, ...] = (0, 1)
    part: str = ""
    attention: str | None = None
    coupling: tuple[str, ...] = ()
    gated: bool = False
    implementation: str = "eager"
    expected: dict = field(default_factory=dict)
    outside: dict = field(default_factory=dict)
    output: str = ""

    @property
    def heads(self):
        """Heads, kv heads, width of queries, width of values and hidden size that the layout must state."""
        stated = self.sizes | self.expected
        heads, hidden = stated["num_attention_heads"], stated["hidden_size"]
        width = stated["head_dim"] if "head_dim" in stated else hidden // heads
        kv_heads = stated.get("num_key_value_heads", heads)
        return heads, kv_heads, width, stated.get("v_head_dim", width), hidden

    @property
    def is_causal_lm(self):
        """Whether the model predicts the next token, so that the default loss applies."""
        names = ("ForCausalLM", "LMHeadModel")
        return self.model_class.endswith(names) and not self.part


class OlderTransformersError(RuntimeError):
    """A family that the installed transformers, older than that of the tables, lacks or builds otherwise."""


def is_older():
    """Tell whether the installed transformers is older than the one that the tables were written with."""
    return Version(transformers.__version__) < Version(WRITTEN_WITH)


def build(architecture):
    """Build the tiny model of a family.

    Returns:
        ``(model, inputs)``: a new model in eval mode, equal to the last, and one sample as keyword arguments.

    Raises:
        OlderTransformersError: If this transformers is too old for it.
    """
    try:
        if is_older() and architecture.name in OTHERWISE:
            raise AttributeError("it has other modules there, or does not run in float64")
        return _build(architecture)
    except (AttributeError, ImportError, KeyError, ValueError) as error:
        if not is_older():
            raise
        raise OlderTransformersError(
            f"transformers {transformers.__version__} has not the {architecture.name} of {WRITTEN_WITH}: {error}"
        ) from error


def _build(architecture):
    model_class = getattr(transformers, architecture.model_class)
    stated = _SHARED | architecture.sizes | architecture.options
    # Configurations write into the dictionaries that they are given, which entries share.
    stated = copy.deepcopy({name: value for name, value in stated.items() if value is not None})
    config = model_class.config_class(**stated)
    config._attn_implementation = architecture.implementation
    model = draw_weights(model_class(config).double(), seed=3).eval().requires_grad_(True)
    for module in model.modules():
        if hasattr(module, "attention_bias_cache"):
            module.attention_bias_cache = _KeepsNothing()
    part = model.get_submodule(architecture.part) if architecture.part else model
    if architecture.joined:
        part.register_forward_pre_hook(functools.partial(_join, architecture.joined), with_kwargs=True)
    return part, _inputs(architecture.inputs) | {name: _constant(value) for name, value in architecture.fixed.items()}


def _constant(value):
    tensor = torch.tensor(value)
    return tensor.double() if tensor.is_floating_point() else tensor


def _join(axes, module, args, kwargs):
    return args, kwargs | {name: torch.cat(tuple(kwargs[name]), axis) for name, axis in axes.items()}


class _KeepsNothing(dict):
    """For LeViT, which keeps the biases of its first pass with their graph: no second backward pass could follow."""

    def __contains__(self, key):
        return False


def decouple(model, architecture):
    """Take out what lets a head move weights of no block or of another head, in place: coupling norms, biases, gates."""
    coupling = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in architecture.coupling and not isinstance(module, torch.nn.ModuleList)
    ]
    for name in coupling:
        model.set_submodule(name, torch.nn.Identity())
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in architecture.coupling:
            parameter.data.zero_()
    if architecture.gated:
        heads = architecture.sizes["num_attention_heads"]
        for name, module in model.named_modules():
            if name.endswith(("self_attn.q_proj", "self_attn.q_gate_proj")):
                width = module.out_features // heads
                gate = architecture.sizes["v_head_dim"] if name.endswith("q_gate_proj") else width // 2
                module.register_forward_hook(functools.partial(_hold_gate, heads, [width - gate, gate]))
    return model


def _hold_gate(heads, widths, module, args, output):
    query, gate = output.unflatten(-1, (heads, -1)).split(widths, -1)
    return torch.cat([query, gate.detach()], -1).flatten(-2)


def _inputs(kind):
    if isinstance(kind, dict):
        generator = torch.Generator().manual_seed(6)
        return {
            name: torch.tensor([TOKENS])
            if shape == "ids"
            else torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in kind.items()
        }
    kind, plus, _ = kind.partition("+")
    if plus:
        return _inputs(kind) | {"decoder_input_ids": torch.tensor([TOKENS[:4]])}
    if kind == "ids":
        return {"input_ids": torch.tensor([TOKENS])}
    generator = torch.Generator().manual_seed(6)
    name, shape = _SHAPES[kind]
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64)}


def causal_models(sizes, prefixes, **rest):
    """Entries of causal language models that need nothing more, by ``name:Prefix``."""
    for pair in prefixes.split():
        name, prefix = pair.split(":")
        yield Architecture(name, f"{prefix}ForCausalLM", sizes=sizes, **rest)


def models(sizes, pairs, **rest):
    """Entries of any models, by ``name:ModelClass``."""
    for pair in pairs.split():
        name, model_class = pair.split(":")
        yield Architecture(name, model_class, sizes=sizes, **rest)
