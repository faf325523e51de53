"""Trained models on disk, under a fingerprint of everything that their weights depend on."""

import hashlib
import json
import os
from pathlib import Path

from safetensors.torch import load, save

CACHE_VARIABLE = "QKOV_CACHE"


def read(name, fingerprint):
    """Return (weights, record), or None where they are not there or not what was written."""
    weights_file, record_file = _files(name, fingerprint)
    if not (weights_file.is_file() and record_file.is_file()):
        return None
    content = weights_file.read_bytes()
    record = json.loads(record_file.read_text(encoding="utf-8"))
    if hashlib.sha256(content).hexdigest() != record["file"] or record["fingerprint"] != fingerprint:
        return None
    return load(content), record


def write(name, fingerprint, model, record):
    """Keep a model's parameters and what is known of it."""
    weights_file, record_file = _files(name, fingerprint)
    # A tied weight is one parameter and is listed once.
    content = save({name: parameter.detach().contiguous() for name, parameter in model.named_parameters()})
    record = {**record, "fingerprint": fingerprint, "file": hashlib.sha256(content).hexdigest()}
    _replace(weights_file, content)
    _replace(record_file, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def _files(name, fingerprint):
    root = os.environ.get(CACHE_VARIABLE) or Path(__file__).parents[1] / "_build" / "models"
    stem = f"{name}-{fingerprint[:16]}"
    return Path(root) / f"{stem}.safetensors", Path(root) / f"{stem}.json"


def _replace(path, content):
    """Write a file so that a reader sees all of it or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
