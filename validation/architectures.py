"""Families of transformers as tiny random models: those whose heads are found, and those that are refused.

:mod:`validation.found_architectures` and :mod:`validation.refused_architectures` are the tables,
:mod:`validation.tiny_models` says what an entry is and builds its model.
"""

from . import encoder_decoders, found_architectures, found_detection, found_prompted, found_readers, found_vision
from .refused_architectures import REFUSED
from .tiny_models import TOKENS, VOCAB_SIZE, Architecture, build, decouple

ARCHITECTURES = {
    one.name: one
    for one in (
        *found_architectures.ARCHITECTURES.values(),
        *encoder_decoders.encoder_decoders(),
        *found_vision.families(),
        *found_detection.families(),
        *found_prompted.families(),
        *found_readers.families(),
    )
}
"""Families whose heads are found, by name. A second entry of a family ends in "-" and what differs."""

__all__ = ["ARCHITECTURES", "REFUSED", "TOKENS", "VOCAB_SIZE", "Architecture", "build", "decouple"]
