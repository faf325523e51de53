"""A small model trained here until induction heads form, and what its heads must then be and do.

Two layers with rotary positions read a random piece that repeats, of another length in every sequence, so that nothing
but the token itself tells where it stood before. From the second round on every token can be predicted, by looking for
the present token and taking what came next: an induction head in the second layer, fed by a previous-token head in the
first (Elhage et al. 2021; Olsson et al. 2022). Which heads do that, nobody told the model: scores have to find them, and
taking them away has to undo what they do.

The first round does not enter the loss. Where it did, heads formed that hold back what has been seen, and one of them, no
induction head, carried 0.56 of the gain.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import math
import sys
import time

import torch
import transformers

import qkov
from qkov import reproducibility

from . import model_cache, tasks, trained, training

NAME = "induction"
LARGEST_LOSS = 0.1
"""Nats per token, on later rounds of held-out sequences, that the model may have."""
CHECK_EVERY = 25
THRESHOLD = 0.5
"""Score from which a head counts as one of its type here, on a scale from chance to all attention."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Sizes of the model and how it is trained: until ``stop`` nats per token are reached, at most ``most_steps``."""

    sizes: dict
    stop: float = 0.05
    most_steps: int = 2000
    batch_size: int = 32
    length: int = 48
    matrix_rate: float = 1e-2
    other_rate: float = 5e-3
    seed: int = 0


RECIPE = Recipe(
    sizes={
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 16,
        "max_position_embeddings": 48,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
)


def load_model(*, on_step=None):
    """Return the trained model in eval mode, from the cache if it is there, else trained now.

    Args:
        on_step: Called with the loss of each step, if it is trained.

    Raises:
        ValueError: If the model does not reach :data:`LARGEST_LOSS`.
    """
    stored = model_cache.read(NAME, fingerprint())
    if stored is None:
        model, record = train_model(RECIPE, on_step=on_step)
        _check(record)
        model_cache.write(NAME, fingerprint(), model, record)
        return model
    weights, record = stored
    _check(record)
    model = build_model(RECIPE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def load_record():
    """Return what is known of the cached model (losses, steps, seconds), or None if it is not there."""
    stored = model_cache.read(NAME, fingerprint())
    return None if stored is None else stored[1]


def build_model(recipe=RECIPE):
    """Build the untrained model in eval mode, the same at every call; the random state outside stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = transformers.LlamaConfig(**recipe.sizes, attn_implementation="sdpa")
        return transformers.LlamaForCausalLM(config).eval()


def train_model(recipe, *, on_step=None):
    """Train on one thread until the loss on later rounds of held-out sequences reaches ``recipe.stop``.

    Returns:
        The model in eval mode, and a record: ``loss`` in nats per token, ``steps``, ``parameters``, ``seconds`` of
        processor time, ``weights`` (SHA-256).
    """
    start = time.process_time()
    with reproducibility.deterministic(threads=1):
        model = build_model(recipe)
        steps = _train(model, recipe, on_step)
        loss = held_out_loss(model, recipe)
    return model, {
        "loss": loss,
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": time.process_time() - start,
        "weights": trained.weights_digest(model),
    }


def _train(model, recipe, on_step):
    layers = model.model.layers
    matrices = [parameter for parameter in layers.parameters() if parameter.ndim == 2]
    inside = {id(parameter) for parameter in matrices}
    matrix_optimiser = training.OrthogonalMomentum(matrices)
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    other_optimiser = torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.99), weight_decay=0.0)
    model.train()
    for step in range(1, recipe.most_steps + 1):
        rate = min(1.0, step / 20)
        for group in other_optimiser.param_groups:
            group["lr"] = recipe.other_rate * rate
        tokens, later = sequences(recipe, recipe.batch_size, seed=step)
        loss = token_losses(model, tokens)[later].mean()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        matrix_optimiser.step(recipe.matrix_rate * rate)
        other_optimiser.step()
        if on_step is not None:
            on_step(loss.item())
        if step % CHECK_EVERY == 0 and held_out_loss(model, recipe) <= recipe.stop:
            break
    model.zero_grad(set_to_none=True)
    model.eval()
    return step


def sequences(recipe, number, *, seed):
    """Draw random pieces and repeat them: tokens ``[number, length]``, and which of all but the first can be predicted.

    A piece is between a quarter and a half of the sequence long and holds no token twice.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.rand(number, recipe.sizes["vocab_size"], generator=generator).argsort(1)
    period = torch.randint(recipe.length // 4, recipe.length // 2 + 1, (number, 1), generator=generator)
    place = torch.arange(recipe.length)[None]
    return tokens.gather(1, place % period), (place > period)[:, 1:]


def token_losses(model, tokens):
    """Negative log-likelihood of every token but the first, ``[number, length - 1]``, in nats."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def held_out_loss(model, recipe=RECIPE, *, number=64):
    """Return the mean loss on later rounds of sequences that training does not see, nats per token."""
    tokens, later = sequences(recipe, number, seed=10**6)
    with torch.no_grad():
        return float(token_losses(model, tokens)[later].mean())


@functools.cache
def fingerprint():
    """SHA-256 of everything that the trained weights depend on, this machine's instruction set included."""
    source = (training.OrthogonalMomentum, training.orthogonalised, _train, build_model)
    source = (*source, sequences, token_losses, held_out_loss)
    parts = {
        "recipe": dataclasses.asdict(RECIPE),
        "source": [tasks.code_text(inspect.getsource(part)) for part in source],
        "versions": [torch.__version__, transformers.__version__, torch.backends.cpu.get_cpu_capability()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _check(record):
    if not record["loss"] <= LARGEST_LOSS:
        raise ValueError(
            f"the induction model has a loss of {record['loss']:.3f} nats per token that it has seen, after"
            f" {record['steps']} steps; expected at most {LARGEST_LOSS}. More steps in its Recipe would lower it."
        )


@contextlib.contextmanager
def without_heads(model, heads):
    """Take heads away: the part of the input of the O projection that is theirs is 0 meanwhile.

    Args:
        model: A model whose heads qkov finds.
        heads: Pairs (layer, head).
    """
    config = qkov.QKOVConfig.from_model(model)
    handles = []
    for layer, head in heads:
        projection = config.layer(layer).projection("O")
        hook = functools.partial(_silence, slice(*projection.interval(head)))
        handles.append(model.get_submodule(projection.module_name).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _silence(part, _module, arguments):
    masked = arguments[0].clone()
    masked[..., part] = 0
    return (masked, *arguments[1:])


def found_heads(types, name):
    """Return the heads, (layer, head), whose score is at least :data:`THRESHOLD` of the way from chance to 1."""
    above = types.above_chance()[types.types.index(name)]
    places = (above >= THRESHOLD).nonzero()
    return [(types.layers[row], types.heads[column]) for row, column in zip(*places, strict=True)]


def lost_gain(model, heads):
    """Return which share of what context gains is lost without some heads: 0 is nothing, 1 all of it, and more is worse.

    The gain is by how much the loss on later rounds lies below that of guessing evenly.
    """
    seen = held_out_loss(model, RECIPE)
    with without_heads(model, heads):
        return (held_out_loss(model, RECIPE) - seen) / (math.log(RECIPE.sizes["vocab_size"]) - seen)


def rows():
    """Measure what the heads of the trained model are and do, and that those of an untrained twin are nothing.

    Returns:
        Rows of study, procedure, data, sets, value, low, high, bound, direction and status, as
        :mod:`validation.statistics_evidence` describes them; ``sets`` is the number of heads or of sets of heads.
    """
    model, twin = load_model(), build_model()
    types, of_twin = (qkov.score_head_types(one, seed=7, length=RECIPE.length) for one in (model, twin))
    induction, previous = (found_heads(types, name) for name in ("induction", "previous_token"))
    last = max(types.layers)
    others = [(last, head) for head in types.heads if (last, head) not in induction]
    controls = list(itertools.combinations(others, min(len(induction), len(others))))
    first = [(layer, head) for layer, head in previous if layer < min((at for at, _ in induction), default=0)]
    beside = [(layer, head) for layer in types.layers for head in types.heads if layer < last]
    beside = [one for one in beside if one not in previous][: len(induction)]
    chance = types.chance[types.types.index("induction")].max()
    score = types.score("induction")

    def row(procedure, sets, value, direction, bound=None):
        kept = {"at least": lambda: value >= bound, "at most": lambda: value <= bound, "shown": lambda: True}[
            direction
        ]()
        status = "passed" if sets and math.isfinite(value) and kept else "failed"
        found = {"study": "head types", "procedure": procedure, "data": "repeated random tokens", "sets": sets}
        found |= {"value": value, "low": None, "high": None, "bound": bound, "direction": direction, "status": status}
        return found

    return [
        row("loss on later rounds, nats per token", 1, held_out_loss(model, RECIPE), "at most", LARGEST_LOSS),
        row("largest induction score", score.size, float(score.max()), "at least", 0.5),
        row("the same over chance", score.size, float(score.max() / chance), "at least", 10.0),
        row("largest previous-token score below the induction heads", len(first),
            max((float(types.score("previous_token")[at]) for at in first), default=math.nan), "at least", 0.5),
        row("gain lost without the induction heads", len(induction), lost_gain(model, induction), "at least", 0.8),
        row("gain lost without as many other heads of their layer, at worst", len(controls),
            max((lost_gain(model, heads) for heads in controls), default=math.nan), "at most", 0.2),
        row("gain lost without the previous-token heads", len(first), lost_gain(model, first), "at least", 0.5),
        row("gain lost without other heads of the first layer", len(beside), lost_gain(model, beside), "shown"),
        row("largest induction score of the untrained twin over chance", score.size,
            float(of_twin.score("induction").max() / chance), "at most", 3.0),
        row("typed heads of the untrained twin", score.size, float((of_twin.label() != "none").sum()), "at most", 0.0),
    ]  # fmt: skip


def measure(long, *, jobs):
    """Make the study, which has one length and takes one process; its rows."""
    return rows()


def make_long(jobs):
    """Make the study; nothing of it is committed."""
    return rows()


class NothingCommitted:
    """In the place of committed evidence, for a study that every run makes in full."""

    @staticmethod
    def read():
        """Return no rows and no complaint."""
        return {"rows": [], "seconds": None, "complaints": []}


EVIDENCE = NothingCommitted()


def main(arguments=None):
    """Train the model if it is not cached, and print what is known of it."""
    parser = argparse.ArgumentParser(prog="python -m validation.induction", description=main.__doc__)
    parser.parse_args(arguments)
    load_model()
    record = load_record()
    even = math.log(RECIPE.sizes["vocab_size"])
    print(
        f"induction: {record['loss']:.3f} nats per token seen before (even guessing {even:.3f}); {record['steps']} steps,"
        f" {record['seconds']:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
