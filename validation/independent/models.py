"""The two models whose weights follow from integers, their samples, and one sample's gradients by plain autograd."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
import transformers

VOCABULARY = 31
LENGTHS = {"a": (9, 7, 9, 6), "b": (8, 9, 5, 9), "r": (9, 6, 8, 7)}


@dataclass(frozen=True)
class Sample:
    """One sample's gradients.

    Attributes:
        grads: By parameter name, as stored, float64.
        inputs, deltas: By module name, input and gradient of the output of every token, ``[tokens, features]``.
        tokens: How many tokens entered the loss.
    """

    grads: dict
    inputs: dict
    deltas: dict
    tokens: int


def seed_of(name):
    """The integer in the first four bytes of SHA-256, most significant first."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:4], "big")


def numbers(seed, shape):
    """Equation R1."""
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    return (np.floor(raw // 2**11).astype(np.float64) * 2.0**-52 - 1).reshape(shape)


def parameter(name, shape):
    """The values of one parameter."""
    xi = numbers(seed_of(name), shape)
    if len(shape) == 2:
        return (xi * 1.5 / math.sqrt(min(shape))).astype(np.float32)
    return (0.1 * xi + (1.0 if name.endswith("weight") else 0.0)).astype(np.float32)


def build(name):
    """A model of the table of reference models, converted to double precision."""
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    common["attn_implementation"] = "sdpa"
    if name == "deterministic-llama":
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=16, **common,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    elif name == "deterministic-gpt2":
        config = transformers.GPT2Config(
            n_embd=12, n_layer=2, n_head=3, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        raise ValueError(f"{name!r} is no reference model.")
    with torch.no_grad():
        for parameter_name, one in model.named_parameters():
            one.copy_(torch.from_numpy(parameter(parameter_name, tuple(one.shape))))
    return model.eval().double()


def texts(task):
    """Equation R2: the samples of a task, lists of tokens."""
    return [
        [(seed_of(f"{task} {m}") + t * (3 + m + ord(task)) ** 2) % (VOCABULARY - 1) + 1 for t in range(length)]
        for m, length in enumerate(LENGTHS[task])
    ]


def sample(model, tokens, modules):
    """Equations M1 and M2: one sample alone, its loss a sum over tokens, differentiated with ``backward``."""
    model.zero_grad(set_to_none=True)
    inputs, outputs, handles = {}, {}, []
    for name in modules:

        def keep(_module, given, output, name=name):
            output.retain_grad()
            inputs[name], outputs[name] = given[0].detach()[0].numpy(), output

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    logits = model(input_ids=torch.tensor([tokens])).logits[0]
    loss = sum(torch.logsumexp(logits[t - 1], 0) - logits[t - 1, tokens[t]] for t in range(1, len(tokens)))  # M1
    loss.backward()
    for handle in handles:
        handle.remove()
    grads = {name: one.grad.numpy().copy() for name, one in model.named_parameters() if one.grad is not None}
    deltas = {name: output.grad[0].numpy().copy() for name, output in outputs.items()}
    return Sample(grads, inputs, deltas, len(tokens) - 1)
