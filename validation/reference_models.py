"""Models whose weights are the same numbers everywhere: neither torch's random numbers nor any training made them.

Every parameter is filled from the raw words of PCG64, seeded by its name, and rounded to float32; tokens follow from
integers. What is measured on such a model may be compared between machines, versions and devices.
"""

import hashlib

import numpy as np
import torch
import transformers

from qkov import reproducibility

from . import environments, tasks

VOCAB_SIZE = 31
_LENGTHS = {"a": (9, 7, 9, 6), "b": (8, 9, 5, 9), "r": (9, 6, 8, 7)}
_SIZES = {
    "deterministic-llama": (
        "LlamaForCausalLM",
        {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 16},
    ),
    "deterministic-gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
}  # fmt: skip
NAMES = tuple(_SIZES)


def build(name):
    """Build one of :data:`NAMES` in float32 and eval mode."""
    model_class, sizes = _SIZES[name]
    model_class = getattr(transformers, model_class)
    ids = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    model = model_class(model_class.config_class(**ids, **sizes, attn_implementation="sdpa")).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values(parameter_name, tuple(parameter.shape))))
    return model


def values(name, shape):
    """Matrices from -1.5 to 1.5 over the root of their smaller side, weights of norms near 1, biases near 0."""
    drawn = environments.words(seed_of(name), *shape)
    if len(shape) > 1:
        return (drawn * 1.5 / min(shape) ** 0.5).astype(np.float32)
    return (0.1 * drawn + (1.0 if name.endswith("weight") else 0.0)).astype(np.float32)


def batch(task):
    """A right-padded batch of tokens of task "a", "b" or "r", of several lengths."""
    rows = [
        (seed_of(f"{task} {row}") + np.arange(length) * (3 + row + ord(task)) ** 2) % (VOCAB_SIZE - 1) + 1
        for row, length in enumerate(_LENGTHS[task])
    ]
    return tasks.pad_rows([list(map(int, row)) for row in rows], pad_id=0)


def seed_of(name):
    """A seed for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def batch_digest(*batches):
    """SHA-256 over the tensors of batches."""
    return reproducibility.tensor_digest(*(one[name] for one in batches for name in sorted(one)))
