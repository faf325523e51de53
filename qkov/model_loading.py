"""Load a model of transformers by name or folder, in eval mode, without running code that nobody pinned."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from . import hub
from .errors import LayoutError, OptionError


def load_model(
    name_or_path: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    config_only: bool = False,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a model of transformers: as a causal language model if its configuration says so, else without a head.

    The configuration says so by the first of its ``architectures``; if it names none, by its type.

    Args:
        name_or_path: A local folder, or a name on the hub.
        device: For example ``"cuda"``; ``"meta"`` with ``config_only``: shapes alone.
        dtype: Of its weights: "float32" or "bfloat16".
        config_only: Build the model with random weights instead of reading them.
        seed: Of these weights.
        revision: Branch, tag or commit of a name on the hub.
        trust_remote_code: Run code that comes with the model, see :func:`qkov.hub.loading_options`.

    Returns:
        The model, in eval mode.

    Raises:
        LayoutError: If it cannot be loaded, with the reason that transformers gives.
        OptionError: If there is no such device, or code is to run that no commit pins.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    folder = Path(name_or_path).expanduser()
    looks_like_path = name_or_path.startswith((".", "~")) or folder.is_absolute() or name_or_path.count("/") > 1
    if looks_like_path and not folder.is_dir():
        raise LayoutError(f"There is no folder {name_or_path!r}; expected a folder with config.json, or a hub name.")
    source = str(folder) if folder.is_dir() else name_or_path
    options = hub.loading_options(source, revision=revision, trust_remote_code=trust_remote_code)
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise OptionError(f"Device {device!r} cannot be used: {_first_line(error)}") from error
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        auto = _auto_class(config)
        if config_only:
            torch.manual_seed(seed)
            with place if place.type == "meta" else nullcontext():  # shapes alone take no memory
                built = auto.from_config(config, dtype=getattr(torch, dtype), **_code_options(config, auto, options))
        else:
            built = auto.from_pretrained(source, config=config, dtype=getattr(torch, dtype), **options)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise LayoutError(
                f"{name_or_path!r} brings code of its own, and no code that comes with a model is run here. Load it yourself "
                "in Python, at a revision whose code you have read, and call qkov.QKOVConfig.from_model(model)."
            ) from error
        raise LayoutError(f"{name_or_path!r} cannot be loaded by transformers: {error}") from error
    return built.to(place).eval()


def _auto_class(config: Any) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    # An encoder such as BERT has a causal class too; what the checkpoint was saved as decides.
    named = getattr(config, "architectures", None) or [CAUSAL.get(config.model_type)]
    return transformers.AutoModelForCausalLM if named[0] in CAUSAL.values() else transformers.AutoModel


def _code_options(config: Any, auto: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of ``from_config``, which hands a revision on to the model unless the model brings its own class."""
    names = ["trust_remote_code"]
    if auto.__name__ in (getattr(config, "auto_map", None) or {}):
        names.append("code_revision")
    return {name: options[name] for name in names if name in options}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
