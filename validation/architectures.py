"""Families of transformers as tiny random models: those whose heads are found, and those that are refused.

The modules named ``found_...`` are the tables, :mod:`validation.tiny_models` says what an entry is and builds its model.
"""

from . import (
    encoder_decoders,
    found_architectures,
    found_audio,
    found_detection,
    found_multimodal_a_to_l,
    found_multimodal_i_to_z,
    found_prompted,
    found_readers,
    found_text,
    found_text_parts,
    found_vision,
    found_whole_multimodal_a_to_h,
    found_whole_multimodal_i_to_z,
    refused_architectures,
)
from .tiny_models import TOKENS, VOCAB_SIZE, Architecture, build, decouple

TABLES = (
    found_architectures,
    encoder_decoders,
    found_text,
    found_text_parts,
    found_audio,
    found_vision,
    found_detection,
    found_prompted,
    found_readers,
    found_multimodal_a_to_l,
    found_multimodal_i_to_z,
    found_whole_multimodal_a_to_h,
    found_whole_multimodal_i_to_z,
    refused_architectures,
)

ARCHITECTURES = {one.name: one for table in TABLES if hasattr(table, "families") for one in table.families()}
"""Families whose heads are found, by name. A second entry of a family ends in "-" and what differs."""

REFUSED = {one.name: (one, reason) for table in TABLES if hasattr(table, "refused") for one, reason in table.refused()}
"""Families whose heads cannot be placed, by name, with words of the reason that the error must state."""

__all__ = ["ARCHITECTURES", "REFUSED", "TOKENS", "VOCAB_SIZE", "Architecture", "build", "decouple"]
