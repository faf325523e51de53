"""JSON that depends on the value alone, for checksums."""

from __future__ import annotations

import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Write JSON that depends on the value alone: sorted keys, ASCII, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
