"""Identifiers that follow from what they identify (PS3.5 B.2: UUID derived UIDs under 2.25).

The same input, model and content give the same UID on every machine and every time; any other
content gives another UID, because archives keep the first object they see under a UID.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

PRODUCT_URI = "urn:dicom-node:uid:v1"
"""Names the namespace of all UIDs of this product; never change it."""


def namespace_of(uri: str) -> UUID:
    """Return the UUID namespace in which the UIDs of a product live."""
    return uuid5(NAMESPACE_URL, uri)


NAMESPACE = namespace_of(PRODUCT_URI)


def derive_uid(key: Mapping[str, Any], *, namespace: UUID = NAMESPACE) -> str:
    """Derive a UID from a JSON-like key; at most 44 characters.

    Parameters
    ----------
    key
        What the UID stands for. Its canonical JSON (sorted keys, no spaces, ASCII) is hashed, so
        neighbouring values cannot run into one another.
    """
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"2.25.{uuid5(namespace, text).int}"


def run_key(
    *,
    source_series: Sequence[str],
    model: str,
    version: str,
    weights: str,
    thresholds: str,
    input_digest: str,
) -> dict[str, Any]:
    """Return the key of one run of one model version on one set of images."""
    return {
        "src": sorted(set(source_series)),
        "model": model,
        "ver": version,
        "weights": weights,
        "thr": thresholds,
        "dig": input_digest,
    }


IMPLEMENTATION_CLASS_UID = derive_uid({"kind": "implementation", "role": "class"})
"""Implementation Class UID (0002,0012) of the files that this package writes."""
