"""What is read out of the body of an answer to STOW-RS."""

from __future__ import annotations

import pytest

from dicom_node.deliver.stow_report import StoreReport, read_report

JSON, XML = "application/dicom+json", "application/dicom+xml"
NAMESPACE = 'xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM"'


def item(uid: str, *more: str) -> str:
    return f'{{"00081155": {{"vr": "UI", "Value": ["{uid}"]}}{"".join(more)}}}'


def reason(tag: str, value: str) -> str:
    return f', "{tag}": {{"vr": "US", "Value": [{value}]}}'


def body(stored: str = "", failed: str = "") -> bytes:
    return (
        f'{{"00081199": {{"vr": "SQ", "Value": [{stored}]}},'
        f' "00081198": {{"vr": "SQ", "Value": [{failed}]}}}}'
    ).encode()


def xml_item(uid: str, tag: str = "", value: str = "") -> str:
    more = f'<DicomAttribute tag="{tag}"><Value number="1">{value}</Value></DicomAttribute>'
    return (
        f'<Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">{uid}'
        f"</Value></DicomAttribute>{more if tag else ''}</Item>"
    )


def xml_body(stored: str, failed: str, attributes: str = "", head: str = "") -> bytes:
    return (
        f'<?xml version="1.0"?>{head}<NativeDicomModel {attributes}>'
        f'<DicomAttribute tag="00081199" vr="SQ">{stored}</DicomAttribute>'
        f'<DicomAttribute tag="00081198" vr="SQ">{failed}</DicomAttribute></NativeDicomModel>'
    ).encode()


@pytest.mark.parametrize(
    ("sent", "report"),
    [
        (body(), StoreReport({}, {})),
        (body(item("1.2")), StoreReport({"1.2": None}, {})),
        (body(item("1.2 ")), StoreReport({"1.2": None}, {})),
        (b"[" + body(item("1.2")) + b"]", StoreReport({"1.2": None}, {})),
        (
            body(item("1.2", reason("00081196", "45056")), item("1.3", reason("00081197", "272"))),
            StoreReport({"1.2": 0xB000}, {"1.3": 0x0110}),
        ),
        (body("", item("1.3", reason("00081197", '"272"'))), StoreReport({}, {"1.3": 0x0110})),
        (body("", item("1.3", reason("00081197", '"?"'))), StoreReport({}, {"1.3": None})),
        (body("", item("1.3", reason("00081197", "70000"))), StoreReport({}, {"1.3": None})),
        (body("", item("1.3", reason("00081197", "1e999"))), StoreReport({}, {"1.3": None})),
        (body("", item("1.3")), StoreReport({}, {"1.3": None})),
        (body(item("1.2"), item("1.2")), StoreReport({}, {"1.2": None})),
        (body('7, null, {"00081155": 1}, {"00081155": {"Value": [5]}}'), StoreReport({}, {})),
        (b'{"00081199": 7, "00081198": {"Value": 7}}', StoreReport({}, {})),
    ],
)
def test_json_is_read_as_far_as_it_says_something(sent: bytes, report: StoreReport) -> None:
    assert read_report(JSON, sent) == report
    assert read_report("text/plain", sent) == report


@pytest.mark.parametrize("attributes", ["", NAMESPACE])
@pytest.mark.parametrize("media_type", [XML, "application/xml", "text/xml"])
def test_xml_is_read_with_and_without_its_namespace(media_type: str, attributes: str) -> None:
    stored = xml_item("1.2") + xml_item("1.4", "00081196", "45056")
    sent = xml_body(stored, xml_item("1.3", "00081197", "43264"), attributes)
    report = StoreReport({"1.2": None, "1.4": 0xB000}, {"1.3": 0xA900})
    assert read_report(media_type, sent) == report


@pytest.mark.parametrize(
    ("media_type", "sent"),
    [
        (JSON, b""),
        (JSON, b"7"),
        (JSON, b"[]"),
        (JSON, b"[{}, {}]"),
        (JSON, b"\xff"),
        (JSON, body()[:-1]),
        (JSON, b"[" * 100_000),
        (JSON, b"9" * 10_000),
        (XML, b""),
        (XML, b"<a>"),
        (XML, xml_body("", "", head='<!DOCTYPE a [<!ENTITY b "boom">]>')),
        (XML, body()),
    ],
)
def test_what_cannot_be_read_says_nothing(media_type: str, sent: bytes) -> None:
    assert read_report(media_type, sent) is None
