"""A model in the few words that lists, rules and pages need."""

from __future__ import annotations

from typing import Any

from dicom_node.score.bundle import Bundle


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a model finds, for whom, and how well: JSON values only."""
    use = bundle.intended_use
    return {
        "name": bundle.name,
        "version": bundle.version,
        "kind": bundle.kind,
        "intended_use": use.statement,
        "modalities": list(use.modalities),
        "age_years": list(use.age_years) if use.age_years else None,
        "findings": [
            {
                "code": entry.code.value,
                "scheme": entry.code.scheme,
                "meaning": entry.code.meaning,
                "threshold": entry.threshold,
            }
            for entry in bundle.findings
        ],
        "evidence": [item.model_dump(mode="json") for item in bundle.metadata.dicom_node.evidence],
        "license": bundle.metadata.dicom_node.license,
        "weights_sha256": bundle.identity.weights_sha256,
    }
