"""Canonical JSON and versioned SHA-256 digests: two equal values have one digest, on every machine."""

import hashlib
import json
from typing import Any

DIGEST_VERSION = "v1"  # a change of what a digest covers needs a new version, so that old ones are not misread
# Made once: `json.dumps` with these settings makes an encoder a call, which takes as long as the encoding.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spare space."""
    return _ENCODER.encode(value)


def digest_of(value: Any) -> str:
    """Return `v1:` and the SHA-256 of the canonical JSON of `value`."""
    return f"{DIGEST_VERSION}:{hashlib.sha256(canonical_json(value).encode()).hexdigest()}"
