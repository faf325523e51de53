"""How many bytes a store takes, beside one full float32 gradient of the attention weights a sample."""

import tempfile
from pathlib import Path

from qkov import FisherCollector

from . import shapes
from .goals import Measured


def full_bytes(config, itemsize=4):
    """Bytes of one sample's gradient of all attention weights."""
    return itemsize * shapes.slice_parameters(config)


def measure(sizes, say=None):
    """Collect into a store and count every byte of it, journal and header included."""
    model = shapes.gpt2(sizes, vocabulary=min(256, sizes.vocabulary))
    count = sizes.collected
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with FisherCollector(store=path) as collector:
            batch = shapes.tokens(count, sizes.tokens, model.config.vocab_size, 1)
            collector.collect_fisher(model, batch, "a", progress=False)
            config = collector.config
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    said = f"{sizes.layers} layers, d {sizes.hidden}, {count} samples of T = {sizes.tokens}, every file of the store"
    return Measured(
        values={"stored": stored / (count * full_bytes(config))},
        conditions={"stored": said},
        details={"stored bytes": stored, "bytes of full gradients": count * full_bytes(config)},
    )
