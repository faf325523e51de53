"""Random samples for a model that is given without any: enough to find heads and to try laws, not to learn of tasks."""

from __future__ import annotations

from typing import Any

from .errors import LayoutError, OptionError

__all__ = ["loss_for", "random_batch", "state_loss"]


def random_batch(model: Any, seed: int, *, samples: int = 2, tokens: int = 8) -> dict[str, Any]:
    """Draw samples: token ids ``[samples, tokens]`` of the model's vocabulary, without padding, or images of its size.

    Raises:
        LayoutError: If the model reads neither.
        OptionError: Without a sample, or with a sample that has nothing to predict.
    """
    import torch

    if samples < 1 or tokens < 2:
        raise OptionError(f"{samples} samples of {tokens} tokens; expected at least 1 of at least 2.")
    generator, config = torch.Generator().manual_seed(seed), model.config
    if model.main_input_name == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        shape = (samples, getattr(config, "num_channels", 3), config.image_size, config.image_size)
        return {"pixel_values": torch.randn(shape, generator=generator).to(model.device)}
    if model.main_input_name != "input_ids":
        raise LayoutError(
            f"{type(model).__name__} reads {model.main_input_name!r}, and only token ids and square images are drawn. "
            "Call qkov.check_model or qkov.prove_layout in Python, with a batch of your own."
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, (samples, tokens), generator=generator).to(model.device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids.flip(0)
    return batch


def loss_for(model: Any) -> Any:
    """Choose the loss of drawn samples: None, causal language modelling, for a model with logits; else of its states."""
    return None if model.get_output_embeddings() is not None else state_loss


def state_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Score a model without logits by where its states point, ``[N]``; any smooth function of them shows the heads."""
    import torch

    states = model(**batch).last_hidden_state
    # Uneven weights: the plain sum and the norm of a normalised state are constant.
    direction = torch.linspace(-1, 2, states.shape[-1], dtype=states.dtype, device=states.device)
    return (states * direction).mean((1, 2))
