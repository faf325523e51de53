"""Where each head lies in the stored weights: Llama's split, grouped projections and GPT-2's fused, transposed ones."""

from dataclasses import dataclass

import numpy as np

BLOCKS = ("Q", "K", "V", "O")


@dataclass(frozen=True)
class Slice:
    """One head of one block.

    Attributes:
        weight, bias: Names of parameters; no bias for O.
        module: What holds them; its input and the gradient of its output make the weight's gradient.
        rows, columns: Intervals of the stored weight, None for all.
        features: Interval of the module's output (Q, K, V) or input (O) that the head owns.
    """

    block: str
    weight: str
    bias: str | None
    module: str
    rows: tuple | None
    columns: tuple | None
    features: tuple

    @property
    def index(self):
        """What to write between the brackets of the stored weight."""
        return tuple(slice(None) if part is None else slice(*part) for part in (self.rows, self.columns))


def of_model(model):
    """Every slice: ``[{block: [slices]}]``, layer by layer; K and V once for each kv head."""
    kind = model.config.model_type
    layers = model.config.num_hidden_layers
    return [{"llama": llama_layer, "gpt2": gpt2_layer}[kind](model.config, layer) for layer in range(layers)]


def llama_layer(config, layer):
    """Equations L1 and L2: rows of Q, K and V, columns of O."""
    prefix, width = f"model.layers.{layer}.self_attn", config.hidden_size // config.num_attention_heads
    found = {}
    for block, name in zip(BLOCKS, ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True):
        count = config.num_key_value_heads if block in "KV" else config.num_attention_heads
        found[block] = []
        for head in range(count):
            part = interval(head, width)
            rows, columns = (part, None) if block != "O" else o_intervals(part)
            module = f"{prefix}.{name}"
            found[block].append(Slice(block, f"{module}.weight", None, module, rows, columns, part))
    return found


def o_intervals(part):
    """Equation L2: heads enter the projection O side by side, so they are blocks of its columns."""
    return None, part


def gpt2_layer(config, layer):
    """Equations L4 and L5: weights stored as (in, out), Q, K and V side by side in one of them."""
    prefix, heads = f"transformer.h.{layer}.attn", config.num_attention_heads
    width = config.hidden_size // heads
    found = {}
    for number, block in enumerate("QKV"):
        module = f"{prefix}.c_attn"
        parts = [fused_interval(number, head, heads, width) for head in range(heads)]
        found[block] = [Slice(block, f"{module}.weight", f"{module}.bias", module, None, part, part) for part in parts]
    module = f"{prefix}.c_proj"
    found["O"] = [
        Slice("O", f"{module}.weight", None, module, interval(head, width), None, interval(head, width))
        for head in range(heads)
    ]
    return found


def interval(head, width):
    """The indices of a head."""
    return head * width, (head + 1) * width


def fused_interval(number, head, heads, width):
    """Equation L4."""
    start = number * heads * width + head * width
    return start, start + width


def kv_head(head, heads, kv_heads):
    """Equation L3."""
    return head // (heads // kv_heads)


def cut(sample, one, include_bias=False):
    """One sample's gradient on a slice, a vector."""
    part = sample.grads[one.weight][one.index].ravel()
    if include_bias and one.bias is not None:
        part = np.concatenate([part, sample.grads[one.bias][slice(*one.features)]])
    return part
