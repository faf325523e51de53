r"""Tiny random attention models of our own: every packing, orientation and grouping, with d_v != d_k, in float64.

A pre-norm causal language model small enough that a whole check costs milliseconds, and written out so that the place
of every head can be read off its ``forward``. Sizes are all different, so that no wrong axis or count fits by luck. The
fused projection holds, for :math:`G` kv heads with :math:`r = H / G` query heads each,

    =============  ==================================================================
    packing        rows of the fused ``nn.Linear`` (columns of the fused ``Conv1D``)
    =============  ==================================================================
    concatenated   all queries, then all keys, then all values
    interleaved    for each kv head: its r queries, its key, its value
    =============  ==================================================================

Around its projections, attention may arrange ``[N, T, d]`` as models of images do:

    =============  ==================================================================
    arrangement    activations of the projections, W windows of :data:`WINDOW` tokens
    =============  ==================================================================
    samples        [N, T, d]
    tokens         [T, N, d]
    joined         [1, N T, d], all samples in one sequence
    flat           [N T, d], the same without a leading axis
    windows        [N W, WINDOW, d], the windows of a sample together
    window_major   [W N, WINDOW, d], the first windows of all samples together
    =============  ==================================================================

Attention is registered with :func:`qkov.locate.register_layout` where this module is imported, as a user's would be.
"""

import copy
import dataclasses
from types import SimpleNamespace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qkov import packings
from qkov.geometry import AttentionLayout
from qkov.locate import find_attention, register_layout

WINDOW = 4
ARRANGEMENTS = ("samples", "tokens", "joined", "flat", "windows", "window_major")


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Sizes of a :class:`SyntheticLM`. ``rotary`` turns pairs of queries and keys instead of adding learned positions."""

    packing: str = "split"
    orientation: str = "linear"
    arrangement: str = "samples"
    num_heads: int = 6
    num_kv_heads: int = 2
    head_dim: int = 4
    v_head_dim: int = 3
    hidden_size: int = 10
    bias: bool = True
    rotary: bool = False
    num_layers: int = 2
    mlp_size: int = 14
    vocab_size: int = 23
    max_positions: int = 24

    def __post_init__(self):
        if self.packing not in ("split", "concatenated", "interleaved") or self.orientation not in ("linear", "conv1d"):
            raise ValueError(f"unknown packing {self.packing!r} or orientation {self.orientation!r}")
        if self.arrangement not in ARRANGEMENTS:
            raise ValueError(f"unknown arrangement {self.arrangement!r}; expected one of {ARRANGEMENTS}")
        if self.num_heads % self.num_kv_heads or (self.rotary and self.head_dim % 2):
            raise ValueError(
                f"expected num_heads a multiple of num_kv_heads, and an even head_dim with rotary; got {self}"
            )
        if self.orientation == "conv1d" and not self.bias:
            raise ValueError("transformers' Conv1D always has a bias")


class SyntheticAttention(nn.Module):
    """Causal self-attention of one layer; its projections are named ``query, key, value`` or ``fused``, and ``output``."""

    def __init__(self, config):
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim, self.v_head_dim = config.head_dim, config.v_head_dim
        self.packing, self.rotary, self.arrangement = config.packing, config.rotary, config.arrangement
        keys, values = self.num_kv_heads * self.head_dim, self.num_kv_heads * self.v_head_dim
        queries = self.num_heads * self.head_dim
        if self.packing == "split":
            self.query = _linear(config, config.hidden_size, queries)
            self.key = _linear(config, config.hidden_size, keys)
            self.value = _linear(config, config.hidden_size, values)
        else:
            self.fused = _linear(config, config.hidden_size, queries + keys + values)
        self.output = _linear(config, self.num_heads * self.v_head_dim, config.hidden_size)

    def forward(self, hidden, visible, position_ids):
        """Attend: ``hidden [N, T, hidden_size]``, ``visible`` bool ``[N, 1, T, T]`` -> ``[N, T, hidden_size]``."""
        query, key, value = self._heads(hidden)  # [N, T, heads, width]
        if self.rotary:
            query, key = _rotated(query, position_ids), _rotated(key, position_ids)
        group = self.num_heads // self.num_kv_heads
        key, value = (part.repeat_interleave(group, dim=2) for part in (key, value))
        scores = torch.einsum("nqhd,nkhd->nhqk", query, key) / self.head_dim**0.5
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        heads = torch.einsum("nhqk,nkhd->nqhd", weights, value)
        # Conv1D views its input; heads of width 1 come out of einsum in another memory order.
        result = self.output(_arranged(heads.flatten(2).contiguous(), self.arrangement))
        return _by_sample(result, self.arrangement, *hidden.shape[:2])

    def _heads(self, hidden):
        num_samples, length, _ = hidden.shape
        hidden = _arranged(hidden, self.arrangement)
        query, key = (self.num_heads, self.head_dim), (self.num_kv_heads, self.head_dim)
        value = (self.num_kv_heads, self.v_head_dim)
        if self.packing == "split":
            parts = self.query(hidden), self.key(hidden), self.value(hidden)
        elif self.packing == "concatenated":
            parts = self.fused(hidden).split([heads * width for heads, width in (query, key, value)], dim=-1)
        else:
            group = self.num_heads // self.num_kv_heads
            grouped = self.fused(hidden).unflatten(-1, (self.num_kv_heads, -1))
            parts = [
                part.flatten(-2) for part in grouped.split([group * self.head_dim, self.head_dim, self.v_head_dim], -1)
            ]
        return [
            _by_sample(part, self.arrangement, num_samples, length).reshape(num_samples, length, *shape)
            for part, shape in zip(parts, (query, key, value), strict=True)
        ]


class SyntheticLM(nn.Module):
    """Causal language model of a few :class:`SyntheticAttention` layers; called as transformers' models are."""

    def __init__(self, config, seed=0):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = None if config.rotary else nn.Embedding(config.max_positions, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        draw_weights(self.double(), seed)

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None):
        """Return an object with ``logits [N, T, vocabulary]``; positions default to counting real tokens."""
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        num_samples, length, _ = hidden.shape
        if attention_mask is None:
            attention_mask = torch.ones(num_samples, length, dtype=torch.long, device=hidden.device)
        real = attention_mask.bool()
        if position_ids is None:
            position_ids = (real.long().cumsum(-1) - 1).clamp_min(0)
        if self.positions is not None:
            hidden = hidden + self.positions(position_ids)
        causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
        # A padding position sees itself, so that no row of the softmax is empty (and NaN).
        itself = torch.eye(length, dtype=torch.bool, device=hidden.device)
        visible = ((causal & real[:, None, :]) | itself)[:, None]
        for layer in self.layers:
            hidden = layer(hidden, visible, position_ids)
        return SimpleNamespace(logits=self.head(self.norm(hidden)))


class _Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = SyntheticAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, config.mlp_size), nn.GELU(), nn.Linear(config.mlp_size, config.hidden_size)
        )

    def forward(self, hidden, visible, position_ids):
        hidden = hidden + self.attention(self.attention_norm(hidden), visible, position_ids)
        return hidden + self.mlp(self.mlp_norm(hidden))


def _linear(config, inputs, outputs):
    if config.orientation == "conv1d":
        return Conv1D(outputs, inputs)
    return nn.Linear(inputs, outputs, bias=config.bias)


def _arranged(tokens, arrangement):
    """Arrange ``[N, T, d]``; windows are filled up with zeros."""
    if arrangement == "tokens":
        return tokens.transpose(0, 1).contiguous()
    if arrangement == "joined":
        return tokens.flatten(0, 1)[None]
    if arrangement == "flat":
        return tokens.flatten(0, 1)
    if arrangement in ("windows", "window_major"):
        windows = nn.functional.pad(tokens, (0, 0, 0, -tokens.shape[1] % WINDOW)).unflatten(1, (-1, WINDOW))
        return (windows if arrangement == "windows" else windows.transpose(0, 1)).flatten(0, 1)
    return tokens


def _by_sample(rows, arrangement, num_samples, length):
    """Undo ``_arranged``: ``[N, T, d]``."""
    if arrangement == "tokens":
        return rows.transpose(0, 1)
    if arrangement == "window_major":
        rows = rows.unflatten(0, (-1, num_samples)).transpose(0, 1)
    return rows.reshape(num_samples, -1, rows.shape[-1])[:, :length]


def _rotated(heads, position_ids):
    """Turn pairs (j, j + d/2) of each head by an angle that grows with the position; ``[N, T, heads, d]``."""
    half = heads.shape[-1] // 2
    speeds = 10.0 ** -torch.arange(half, dtype=heads.dtype, device=heads.device)
    angles = (position_ids[..., None].to(heads.dtype) * speeds)[:, :, None]
    first, second = heads.split(half, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def draw_weights(model, seed, *, gain=1.0):
    r"""Draw all parameters anew: matrices :math:`N(0, gain^2 / fan_{in})`, norm weights near 1, biases near 0.

    Larger than the usual start of training, so that attention is not uniform and no gradient is negligible; nothing is
    exactly 0 or 1, so that no bias or norm is tested by accident only.
    """
    generator = torch.Generator().manual_seed(seed)
    conv_weights = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                fan_in = parameter.shape[0] if id(parameter) in conv_weights else parameter[0].numel()
                parameter.copy_(noise * gain / fan_in**0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
    return model


def gqa_twin(model):
    """Expand grouped-query attention to multi-head: every query head gets its own copy of its kv head.

    Works for :class:`SyntheticLM` and for models of transformers with ``num_key_value_heads``.

    Returns:
        A new model of the same class that computes the same function, in eval mode.
    """
    config = copy.deepcopy(model.config)
    if isinstance(model, SyntheticLM):
        twin = SyntheticLM(dataclasses.replace(config, num_kv_heads=config.num_heads))
    else:
        config.num_key_value_heads = config.num_attention_heads
        twin = type(model)(config)
    first = next(model.parameters())
    twin = twin.to(dtype=first.dtype, device=first.device).eval()
    source, target = dict(model.named_parameters()), dict(twin.named_parameters())
    with torch.no_grad():
        for grouped, expanded in zip(find_attention(model), find_attention(twin), strict=True):
            for block in "QKV":
                for head in range(grouped.num_heads):
                    old = grouped.projection(block).slice_of(grouped.unit(block, head))
                    new = expanded.projection(block).slice_of(head)
                    target[new.param_name][new.index] = source[old.param_name][old.index]
                    if old.bias_name is not None:
                        target[new.bias_name][new.bias_index] = source[old.bias_name][old.bias_index]
        expanded_names = {
            name
            for layout in find_attention(twin)
            for block in "QKV"
            for name in (layout.projection(block).param_name, layout.projection(block).bias_name)
        }
        for name, parameter in twin.named_parameters():
            if name not in expanded_names:
                parameter.copy_(source[name])
    return twin


def _synthetic_layout(module, name, config):
    """Locate the heads of a :class:`SyntheticAttention`; registered for it."""
    if module.packing == "split":
        return packings.split_layout(module, name, config, query="query", key="key", value="value", output="output")
    if module.packing == "concatenated":
        return packings.concatenated_layout(module, name, config, fused="fused", output="output")
    if module.num_kv_heads == module.num_heads:
        return packings.interleaved_layout(module, name, config, fused="fused", output="output")
    return _grouped_layout(module, name)


def _grouped_layout(module, name):
    """Locate the heads where each kv head's queries, key and value lie together."""
    group = module.num_heads // module.num_kv_heads
    width, v_width = module.head_dim, module.v_head_dim
    period = (group + 1) * width + v_width
    fused, output = (packings.Linear.at(module, name, path) for path in ("fused", "output"))
    queries = [period * (head // group) + width * (head % group) for head in range(module.num_heads)]
    keys = [period * kv_head + group * width for kv_head in range(module.num_kv_heads)]
    values = [start + width for start in keys]
    return AttentionLayout(
        layer=0,
        module_name=name,
        packing="interleaved",
        num_heads=module.num_heads,
        num_kv_heads=module.num_kv_heads,
        head_dim=width,
        v_head_dim=v_width,
        hidden_size=fused.inputs,
        projections=(
            fused.projection("Q", queries, width),
            fused.projection("K", keys, width),
            fused.projection("V", values, v_width),
            output.projection("O", [v_width * head for head in range(module.num_heads)], v_width),
        ),
    )


register_layout(SyntheticAttention, _synthetic_layout)
