"""An induction circuit written into the weights of a two-layer Llama by hand: an independent route to known head types.

The residual stream holds a constant, the token, and room for the token before, each a block of :data:`NUM_TOKENS` axes
(tokens are one-hot), so that its norm is the same everywhere and the RMS norms only scale. With a huge base, the first
half of the rotary pairs turns with the position and the second half stands still.

- Layer 0, head 0 asks and answers with the constant on the turning pairs, the key turned by one position: it looks one
  back, and writes the token found there into the room for it.
- Layer 1, head 0 asks with its own token and answers with the token before, on the pairs that stand still: it looks at
  what follows an earlier occurrence.
- All other heads have no query: attention spread evenly.

The first position has no token before and takes its own for it, so sequences should start with a token of their own.
"""

import math

import torch
import transformers

NUM_TOKENS = 16
NUM_HEADS = 2
HEAD_DIM = 32
BASE = 1e16
SHARPNESS = 60.0


def induction_circuit(*, shift=1):
    """Build the model in eval mode; ``shift`` is how far back layer 0's head looks."""
    config = transformers.LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=2 + 3 * NUM_TOKENS,  # a multiple of the number of heads; the last axis stays empty
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    model = transformers.LlamaForCausalLM(config).eval()
    token = slice(1, 1 + NUM_TOKENS)
    before = slice(1 + NUM_TOKENS, 1 + 2 * NUM_TOKENS)
    following = slice(1 + 2 * NUM_TOKENS, 1 + 3 * NUM_TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[:, token] = torch.eye(NUM_TOKENS)
        _write_previous(model.model.layers[0].self_attn, token, before, shift)
        _write_induction(model.model.layers[1].self_attn, token, before, following)
        model.lm_head.weight[:, following] = 20 * torch.eye(NUM_TOKENS)
    return model


def _write_previous(attention, token, before, shift):
    half = HEAD_DIM // 2
    turning = torch.arange(half // 2)
    angles = -shift * BASE ** (-2.0 * turning / HEAD_DIM)  # the key at k is turned as if it stood at k + shift
    attention.q_proj.weight[turning, 0] = SHARPNESS
    attention.k_proj.weight[turning, 0] = angles.cos().float()
    attention.k_proj.weight[turning + half, 0] = -angles.sin().float()
    attention.v_proj.weight[:NUM_TOKENS, token] = torch.eye(NUM_TOKENS)
    attention.o_proj.weight[before, :NUM_TOKENS] = torch.eye(NUM_TOKENS) / math.sqrt(attention.o_proj.out_features / 2)


def _write_induction(attention, token, before, following):
    half = HEAD_DIM // 2
    still = torch.cat([torch.arange(half // 2, half), torch.arange(half + half // 2, HEAD_DIM)])
    attention.q_proj.weight[still, token] = SHARPNESS * torch.eye(NUM_TOKENS)
    attention.k_proj.weight[still, before] = torch.eye(NUM_TOKENS)
    attention.v_proj.weight[:NUM_TOKENS, token] = torch.eye(NUM_TOKENS)
    attention.o_proj.weight[following, :NUM_TOKENS] = torch.eye(NUM_TOKENS)
