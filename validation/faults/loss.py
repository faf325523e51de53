"""Faults of the loss: which tokens enter it, how they are added, and where a model believes them to be."""

import functools

import torch

from qkov import losses

from .planting import fault

loss = functools.partial(fault, area="loss")


@loss("losses.causal_lm_loss", expected="token_sum")
def mean_over_tokens(original):
    """The loss of a sample is the mean over its tokens, as training reports it, not their sum."""

    def causal_lm_loss(model, batch):
        total, tokens = original(model, batch)
        return total / tokens, tokens

    return causal_lm_loss


@loss("returned_losses.per_sample", expected="batch_invariance")
def mean_over_the_batch(original):
    """The losses of a pass are averaged, so that every gradient depends on how many samples share the pass."""

    def per_sample(result, num_samples):
        total, tokens = original(result, num_samples)
        return total / num_samples, tokens

    return per_sample


@loss("losses.causal_lm_loss", expected="isolation")
def divided_by_the_longest(original):
    """Each loss is divided by the length of the longest sample in its pass."""

    def causal_lm_loss(model, batch):
        total, tokens = original(model, batch)
        return total / tokens.max(), tokens

    return causal_lm_loss


@loss("losses.causal_lm_loss", expected="contributions")
def first_token_counted(original):
    """The first token, which nothing predicts, is counted among the tokens of the loss."""

    def causal_lm_loss(model, batch):
        total, tokens = original(model, batch)
        return total, tokens + 1

    return causal_lm_loss


@loss("losses.target_labels", expected="reference_gradients")
def labels_not_shifted(original):
    """Each position predicts its own token instead of the next."""

    def target_labels(batch):
        labels = original(batch)
        # The loss reads the label of position t + 1 at position t.
        return torch.cat([torch.full_like(labels[:, :1], losses.IGNORED), labels[:, :-1]], 1)

    return target_labels


@loss("losses.target_labels", expected="reference_gradients")
def labels_shifted_twice(original):
    """Labels are shifted by the caller and again by the loss: each position predicts the token after the next."""

    def target_labels(batch):
        labels = original(batch)
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], losses.IGNORED)], 1)

    return target_labels


@loss("losses.target_labels", expected="token_sum")
def label_mask_ignored(original):
    """Labels that are masked, such as those of a prompt, enter the loss."""
    return lambda batch: original({name: value for name, value in batch.items() if name != "labels"})


@loss("losses.target_labels", expected="reference_gradients")
def attention_mask_ignored(original):
    """Without labels, padding is predicted like text."""
    return lambda batch: original({name: value for name, value in batch.items() if name != "attention_mask"})


@loss("losses.target_labels", expected="padding")
def first_real_token_predicted(_original):
    """With padding on the left, the first real token's label counts, predicted from a padding position."""

    def target_labels(batch):
        labels = batch["labels"] if "labels" in batch else batch["input_ids"]
        return labels.masked_fill(~losses.real_tokens(batch), losses.IGNORED)

    return target_labels


@loss("losses.real_tokens", expected="padding")
def padding_known_by_its_id(_original):
    """Padding is where the id is the padding id, not where the attention mask says so."""
    return lambda batch: batch["input_ids"] != 0


@loss("losses.position_ids", expected="padding", case="gpt2")
def positions_from_the_left_edge(_original):
    """Positions count padding, so that a sample padded on the left is read at other positions."""

    def position_ids(batch):
        return torch.arange(batch["input_ids"].shape[1]).expand(batch["input_ids"].shape)

    return position_ids
