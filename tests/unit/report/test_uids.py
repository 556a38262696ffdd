"""UIDs follow from what they identify."""

from __future__ import annotations

from dicom_node.report.uids import IMPLEMENTATION_CLASS_UID, derive_uid, namespace_of, run_key


def test_the_documented_vector_gives_the_documented_uid() -> None:
    namespace = namespace_of("urn:example:ainode:uid:v1")
    run = {"dig": "ab" * 32, "model": "CXR-PNA", "src": ["1.2.3"], "ver": "1.4.2"}

    uid = derive_uid({"kind": "SR", "role": "series", "run": run}, namespace=namespace)

    assert str(namespace) == "fadc3a69-3f14-55e1-882b-6f168ddff4d7"
    assert uid == "2.25.90044678562408266039727268473626900522"


def test_the_products_own_namespace_never_changes() -> None:
    assert IMPLEMENTATION_CLASS_UID == "2.25.204906100684798959739114632728987467230"


def test_neighbouring_values_do_not_run_into_one_another() -> None:
    assert derive_uid({"a": "ab", "b": "c"}) != derive_uid({"a": "a", "b": "bc"})


def test_the_order_and_number_of_mentions_of_a_series_do_not_matter() -> None:
    rest = {"model": "m", "version": "1", "weights": "w", "thresholds": "t", "input_digest": "d"}

    assert run_key(source_series=["1.2", "1.1", "1.2"], **rest) == run_key(
        source_series=["1.1", "1.2"], **rest
    )
