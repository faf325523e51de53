"""JSON that depends on the value alone, for checksums."""

import json


def canonical_json(value):
    """Write JSON that depends on the value alone: sorted keys, ASCII, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
