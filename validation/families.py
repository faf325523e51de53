"""Tiny random models of the families of transformers, one entry each: hidden size, heads, kv heads and widths differ.

Weights are drawn anew (:func:`validation.synthetic.draw_weights`), so that attention is far from uniform, and no bias or
norm has its trivial value. float64 unless asked otherwise.
"""

import torch
import transformers

from qkov import losses

from .synthetic import draw_weights

VOCAB_SIZE = 23
PAD_ID = 0
MASK_ID = 1

# Where the family allows it, head_dim is not hidden_size / heads.
_PLAIN = {"hidden_size": 24, "num_attention_heads": 3}
_GROUPED = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
_FREE = {"hidden_size": 18, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4}
FAMILIES = {
    "gpt2": ("GPT2LMHeadModel", _PLAIN | {"n_inner": 20}),
    "gpt_neox": ("GPTNeoXForCausalLM", _PLAIN),
    "phi3": ("Phi3ForCausalLM", _GROUPED),
    "opt": ("OPTForCausalLM", _PLAIN | {"ffn_dim": 20, "word_embed_proj_dim": 24}),
    "bert": ("BertForMaskedLM", _PLAIN),
    "llama": ("LlamaForCausalLM", _FREE | {"attention_bias": True}),
    "mistral": ("MistralForCausalLM", _FREE | {"num_key_value_heads": 1, "sliding_window": 6}),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED | {"num_key_value_heads": 3}),
    "qwen3": ("Qwen3ForCausalLM", _FREE | {"num_key_value_heads": 3, "head_dim": 8}),
}
_SHARED = {
    "vocab_size": VOCAB_SIZE,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "pad_token_id": PAD_ID,
    "bos_token_id": None,
    "eos_token_id": None,
}


def build_family(family, *, attention="sdpa", dtype=torch.float64, seed=0):
    """Build a family's tiny model in eval mode.

    Args:
        family: A key of :data:`FAMILIES`.
        attention: ``"sdpa"`` or ``"eager"``.
        dtype: Of the parameters.
        seed: Of the weights.
    """
    class_name, sizes = FAMILIES[family]
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(**(_SHARED | sizes), attn_implementation=attention)
    return draw_weights(model_class(config).to(dtype), seed).eval()


def masked_token_loss(model, batch):
    """Sum an encoder's negative log-likelihood of the tokens behind the mask, per sample.

    Args:
        model: Masked language model with ``logits``.
        batch: ``input_ids`` with some tokens replaced, ``attention_mask``, and ``labels`` that hold those tokens and
            -100 elsewhere; each ``[N, T]``.

    Returns:
        ``(losses [N], tokens [N])``.
    """
    labels = batch["labels"]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        # An encoder counts positions from the left edge, padding included, unless told.
        position_ids=losses.position_ids(batch),
    ).logits
    per_token = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=losses.IGNORED, reduction="none"
    )
    return per_token.sum(1), (labels != losses.IGNORED).sum(1)


def mask_tokens(batch, *, every=3):
    """Turn a causal batch into one for :func:`masked_token_loss`: every third real token is hidden and predicted."""
    counted = losses.position_ids(batch)
    hidden = losses.real_tokens(batch) & (counted % every == 1)
    return {
        "input_ids": batch["input_ids"].masked_fill(hidden, MASK_ID),
        "attention_mask": batch["attention_mask"],
        "labels": batch["input_ids"].masked_fill(~hidden, losses.IGNORED),
    }
