"""The two models trained here on real text, cached under a fingerprint: ``python -m validation.trained`` makes them.

A Llama-style model with grouped queries and a GPT-2-style model, four layers of width 128 with 8 heads, read and write
bytes. Both must reach :data:`LARGEST_LOSS` on held-out modules of both tasks. The fingerprint covers the recipe, the
text, the versions and the source of the training, so that a cached model is the one that training would give.
"""

import argparse
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import subprocess
import sys
import time

import torch
import transformers

from qkov import reproducibility

from . import model_cache, tasks, training

LARGEST_LOSS = 1.8
"""Nats per byte on held-out text of either task that a model may have."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is made: its class and sizes, and the arguments of :func:`validation.training.train`."""

    description: str
    model_class: str
    sizes: dict
    steps: int
    matrix_rate: float
    other_rate: float
    batch_size: int = 8
    length: int = 128
    seed: int = 0


_TEXT = {"vocab_size": tasks.VOCAB_SIZE, "pad_token_id": tasks.PAD_ID, "bos_token_id": None, "eos_token_id": None}
FAMILIES = {
    "llama": Recipe(
        description="Llama-style, 4 layers, width 128, 8 heads on 2 kv heads",
        model_class="LlamaForCausalLM",
        sizes=_TEXT
        | {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
        steps=700,
        matrix_rate=1e-2,
        other_rate=5e-3,
    ),
    "gpt2": Recipe(
        description="GPT-2-style, 4 layers, width 128, 8 heads",
        model_class="GPT2LMHeadModel",
        sizes=_TEXT
        | {
            "n_embd": 128,
            "n_inner": 256,
            "n_layer": 4,
            "n_head": 8,
            "n_positions": 128,
            "activation_function": "relu",
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        steps=900,
        matrix_rate=1e-2,
        other_rate=5e-3,
    ),
}


def recipe_of(family, seed=0):
    """Return the recipe of a family; another ``seed`` than 0 draws other first weights and other training pieces."""
    recipe = FAMILIES[family]
    return dataclasses.replace(recipe, seed=recipe.seed + 1000 * seed)


def load_model(family, seed=0, *, on_step=None):
    """Return a trained model in eval mode, from the cache if it is there, else trained now.

    Args:
        family: ``"llama"`` or ``"gpt2"``.
        seed: Which of several models of the recipe.
        on_step: As for :func:`validation.training.train`, if it is trained.

    Raises:
        ValueError: If the model does not reach :data:`LARGEST_LOSS`.
    """
    stored = model_cache.read(family, fingerprint(family, seed))
    if stored is None:
        model, record = train_model(recipe_of(family, seed), on_step=on_step)
        _check(family, record)
        model_cache.write(family, fingerprint(family, seed), model, record)
        return model
    weights, record = stored
    _check(family, record)
    model = build_model(recipe_of(family, seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model.eval()


def load_record(family, seed=0):
    """Return what is known of a cached model (losses, steps, seconds, fingerprints), or None if it is not there."""
    stored = model_cache.read(family, fingerprint(family, seed))
    return None if stored is None else stored[1]


def train_model(recipe, *, on_step=None):
    """Train a model by its recipe, on one thread.

    Returns:
        The model in eval mode, and a record: ``held_out`` losses by task in nats per byte, ``steps``, ``parameters``,
        ``seconds`` of processor time, ``weights`` (SHA-256) and the ``corpus`` fingerprint.
    """
    start = time.process_time()
    with reproducibility.deterministic(threads=1):
        model = build_model(recipe)
        training.train(
            model,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            length=recipe.length,
            matrix_rate=recipe.matrix_rate,
            other_rate=recipe.other_rate,
            seed=recipe.seed + 1,
            on_step=on_step,
        )
        held_out = {task: training.held_out_loss(model, task) for task in training.TEXT_TASKS}
    record = {
        "held_out": held_out,
        "steps": recipe.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": time.process_time() - start,
        "weights": weights_digest(model),
        "corpus": tasks.corpus_fingerprint(),
    }
    return model, record


def build_model(recipe):
    """Build an untrained model, the same at every call; the random state outside stays as it was."""
    model_class = getattr(transformers, recipe.model_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = model_class(model_class.config_class(**recipe.sizes, attn_implementation="sdpa"))
    with torch.no_grad():
        # The usual 0.02 is small beside what a few hundred steps have to reach.
        model.get_input_embeddings().weight.mul_(5)
    if isinstance(model, transformers.GPT2LMHeadModel):
        look_back(model)
    return model


def look_back(model, *, num_layers=2, amplitude=0.15, scale=0.09):
    r"""Start GPT-2's position table as sinusoids, and head h of the first layers looking h + 1 bytes back.

    Learning from nothing which positions are neighbours takes most of a short training: after 400 steps, looking back
    left 0.14 nats per byte less on code and 0.22 less on prose than sinusoids alone. Of sines and cosines a shift is a
    rotation, :math:`p(t + s) = R_s p(t)`, so that keys :math:`W_K = W_Q R_s` answer the query of s positions later. All
    of it is trained afterwards.
    """
    width, heads = model.config.n_embd, model.config.n_head
    speeds = 3.0 * 10.0 ** -(torch.arange(0, width, 2) / width)
    table = model.transformer.wpe.weight
    angles = torch.arange(len(table))[:, None] * speeds
    with torch.no_grad():
        table[:, 0::2], table[:, 1::2] = amplitude * angles.sin(), amplitude * angles.cos()
        for block in model.transformer.h[:num_layers]:
            # Conv1D: [in, out], so that the queries and keys of a head are columns.
            query, key, _ = block.attn.c_attn.weight.split(width, dim=1)
            query.mul_(scale / model.config.initializer_range)
            for head in range(heads):
                columns = slice(head * width // heads, (head + 1) * width // heads)
                key[:, columns] = _shift(speeds * (head + 1)).T @ query[:, columns]


def _shift(angles):
    """Return the matrix that turns every (sine, cosine) pair by an angle."""
    cos, sin = angles.cos(), angles.sin()
    rotations = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    return torch.block_diag(*rotations)


@functools.cache
def fingerprint(family, seed=0):
    """SHA-256 of everything that the trained weights depend on, this machine's instruction set included."""
    parts = {
        "recipe": dataclasses.asdict(recipe_of(family, seed)),
        "corpus": tasks.corpus_fingerprint(),
        "source": [tasks.code_text(inspect.getsource(part)) for part in (training, build_model, look_back, _shift)],
        "versions": [torch.__version__, transformers.__version__, torch.backends.cpu.get_cpu_capability()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def weights_digest(model):
    """SHA-256 over the names and values of all parameters."""
    names = [name for name, _ in model.named_parameters()]
    digest = reproducibility.tensor_digest(*model.parameters())
    return hashlib.sha256(json.dumps([names, digest]).encode()).hexdigest()


def _check(family, record):
    worst = max(record["held_out"].values())
    if not worst <= LARGEST_LOSS:
        raise ValueError(
            f"the trained {family} model has held-out losses {record['held_out']} nats per byte; expected at most "
            f"{LARGEST_LOSS}. More steps in its Recipe would lower them."
        )


def main(arguments=None):
    """Train what is missing, several models side by side with one thread each, and print their losses."""
    parser = argparse.ArgumentParser(prog="python -m validation.trained", description=main.__doc__)
    parser.add_argument("families", nargs="*", metavar="family", help=f"of {', '.join(FAMILIES)}; default: all")
    families = parser.parse_args(arguments).families or list(FAMILIES)
    if unknown := set(families) - set(FAMILIES):
        parser.error(f"no recipe for {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    absent = [family for family in families if load_record(family) is None]
    if len(absent) > 1:
        command = [sys.executable, "-m", "validation.trained"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        children = [
            subprocess.Popen([*command, family], env=environment, stdout=subprocess.DEVNULL) for family in absent
        ]
        if any([child.wait() for child in children]):
            return 1
    for family in families:
        if load_record(family) is None:
            _train_with_progress(family)
        record = load_record(family)
        losses = ", ".join(f"{task} {loss:.3f}" for task, loss in record["held_out"].items())
        print(f"{family}: held out {losses} nats per byte; {record['steps']} steps, {record['seconds']:.0f} s")
    return 0


def _train_with_progress(family):
    from tqdm import tqdm

    position = list(FAMILIES).index(family)
    with tqdm(total=FAMILIES[family].steps, desc=f"training {family}", unit="step", position=position) as bar:

        def advance(loss):
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
            bar.update()

        load_model(family, on_step=advance)


if __name__ == "__main__":
    sys.exit(main())
