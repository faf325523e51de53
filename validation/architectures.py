"""Families of transformers as tiny random models: those whose heads are found, and those that are refused.

:mod:`validation.found_architectures` and :mod:`validation.refused_architectures` are the tables,
:mod:`validation.tiny_models` says what an entry is and builds its model.
"""

from .found_architectures import ARCHITECTURES
from .refused_architectures import REFUSED
from .tiny_models import TOKENS, VOCAB_SIZE, Architecture, build, decouple

__all__ = ["ARCHITECTURES", "REFUSED", "TOKENS", "VOCAB_SIZE", "Architecture", "build", "decouple"]
