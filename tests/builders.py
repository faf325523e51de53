"""Tiny models of the supported families, batches with padding, and collections of them, for tests of any module."""

import functools

import numpy as np
import torch
import transformers

import qkov
from qkov import losses, reference

VOCABULARY = 23
PADDING_ID = 0

# hidden, heads, kv heads and head_dim all differ where the family allows it; heads // kv heads != heads % kv heads.
_GROUPED = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
_PLAIN = {"hidden_size": 24, "num_attention_heads": 6}
FAMILIES = {
    "llama": ("LlamaForCausalLM", _GROUPED | {"attention_bias": True}),
    "gpt2": ("GPT2LMHeadModel", _PLAIN),
    "opt": ("OPTForCausalLM", _PLAIN | {"ffn_dim": 20, "word_embed_proj_dim": 24}),
    "gpt_neox": ("GPTNeoXForCausalLM", _PLAIN),
    "phi3": ("Phi3ForCausalLM", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "qwen3": (
        "Qwen3ForCausalLM",
        {"hidden_size": 20, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4},
    ),
    "bert": ("BertModel", _PLAIN),
}
CAUSAL_FAMILIES = tuple(family for family in FAMILIES if family != "bert")


def build_model(family, *, dtype=torch.float64, attention="sdpa", layers=2, seed=0, **changes):
    """Build a random model in eval mode whose biases, norms and attention patterns are all far from trivial."""
    name, sizes = FAMILIES[family]
    model_class = getattr(transformers, name)
    shared = {
        "vocab_size": VOCABULARY,
        "intermediate_size": 20,
        "num_hidden_layers": layers,
        "max_position_embeddings": 32,
        "pad_token_id": PADDING_ID,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": attention,
    }
    model = model_class(model_class.config_class(**(shared | sizes | changes)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            scale = 0.3 if parameter.ndim < 2 or "embed" in name or "wte" in name else parameter.shape[-1] ** -0.5
            noise = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise + (1.0 if parameter.ndim < 2 and name.endswith("weight") else 0.0))
    return model.to(dtype).eval()


def build_batch(lengths, *, padding="right", width=None, seed=0, start=1):
    """Make token ids and an attention mask; token ids are at least ``start``, padding is ``PADDING_ID``."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.full((len(lengths), width), PADDING_ID)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(0, length) if padding == "right" else slice(width - length, width)
        ids[row, where] = torch.randint(start, VOCABULARY, (length,), generator=generator)
        mask[row, where] = 1
    return {"input_ids": ids, "attention_mask": mask}


def pooled_loss(model, batch):
    """A loss of a user's own for an encoder: squared distance of each sample's mean state from a fixed direction."""
    states = model(**batch, position_ids=losses.position_ids(batch)).last_hidden_state
    mask = batch["attention_mask"].to(states.dtype)[:, :, None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    target = torch.linspace(-1, 1, pooled.shape[-1], dtype=pooled.dtype, device=pooled.device)
    return (pooled - target).square().sum(-1)


def loss_of(family):
    """The ``loss_fn`` to collect a family with: None for causal models."""
    return pooled_loss if family == "bert" else None


def collect(model, batch, task="a", *, weights="attention", **options):
    """Collect one task into a new collector."""
    collector = qkov.FisherCollector(weights=weights)
    collector.collect_fisher(model, batch, task, progress=False, **options)
    return collector


def gradient_error(collector, task, expected):
    """Largest norm-wise relative error over samples and projection parameters.

    Errors are relative to the largest gradient among the weights of the same attention module: some parameters have
    gradient 0 (the bias of K without rotary positions, Q and K of a sample whose tokens are equal), where an error
    relative to the parameter's own gradient would compare rounding noise with rounding noise.

    Args:
        expected: One ``{param_name: float64 array}`` per sample, in the order of collection.
    """
    worst, compared = 0.0, 0
    for sample_id, truth in zip(collector.sample_ids(task), expected, strict=True):
        grads = collector.get_sample_gradients(task, sample_id)
        for layout in collector.config.layers:
            weights = {projection.param_name for projection in layout.projections}
            biases = {projection.bias_name for projection in layout.projections if projection.bias_name}
            scale = max(np.linalg.norm(truth[name]) for name in weights)
            for name in weights | biases:
                error = np.linalg.norm(grads[name].double().numpy() - truth[name]) / scale
                assert np.isfinite(error), f"{name} of sample {sample_id!r}"
                worst, compared = max(worst, error), compared + 1
    assert compared
    return worst


@functools.cache
def reference_gradients(family, attention, lengths, seed=0):
    """Reference gradients of a float64 model on a batch of ``build_batch``; the same for every padding."""
    model = build_model(family, attention=attention)
    return reference.sample_gradients(model, build_batch(lengths, seed=seed), loss_of(family))
