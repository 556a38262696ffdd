"""Names reach the results letter by letter, whatever character set they came in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_charset_files
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.charset import decode_text, defined_terms
from dicom_node.errors import BadInput
from dicom_node.report.normalise import normalised
from dicom_node.report.validate import validate_result
from tests.unit.report.cases import chest_case, chest_header, chest_path


def jis(text: str) -> bytes:
    return text.encode("iso2022_jp")


def jis_name(text: str) -> bytes:
    return b"^".join(jis(part) for part in text.split("^"))


def designated(text: str, escape: bytes, encoding: str) -> bytes:
    """Each part of a name after its own escape sequence (PS3.5 annexes I and K)."""
    return b"^".join(escape + part.encode(encoding) for part in text.split("^"))


# Bytes 3DH, 5CH and 5EH, which delimit names and values, are parts of some of these letters.
NAMES = {
    "ascii": ("", b"Doe^Jane", "Doe^Jane"),
    "latin 1": ("ISO_IR 100", "Jérôme^Ñuño".encode("latin-1"), "Jérôme^Ñuño"),
    "latin 2": ("ISO_IR 101", "Wałęsa^Łucja".encode("iso8859-2"), "Wałęsa^Łucja"),
    "latin 3": ("ISO_IR 109", "Ĝoĉo^Ŝi".encode("iso8859-3"), "Ĝoĉo^Ŝi"),
    "latin 4": ("ISO_IR 110", "Ķēniņš^Ģirts".encode("iso8859-4"), "Ķēniņš^Ģirts"),
    "latin 5": ("ISO_IR 148", "Çağrı^Şıvgın".encode("iso8859-9"), "Çağrı^Şıvgın"),
    "latin 9": ("ISO_IR 203", "Œuvré^Žana€".encode("iso8859-15"), "Œuvré^Žana€"),
    "cyrillic": ("ISO_IR 144", "Иванов^Пётр".encode("iso8859-5"), "Иванов^Пётр"),
    "arabic": ("ISO_IR 127", "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
    "greek": ("ISO_IR 126", "Διονύσιος^Ά".encode("iso8859-7"), "Διονύσιος^Ά"),
    "hebrew": ("ISO_IR 138", "שרון^דבורה".encode("iso8859-8"), "שרון^דבורה"),
    "thai": ("ISO_IR 166", "สมชาย^ใจดี".encode("iso8859-11"), "สมชาย^ใจดี"),
    "thai, extended": (
        "\\ISO 2022 IR 166",
        b"Somchai^J=" + designated("สมชาย^ใจดี", b"\x1b-T", "iso8859-11"),
        "Somchai^J=สมชาย^ใจดี",
    ),
    "utf-8": ("ISO_IR 192", "Wang^X=王^小東=😀".encode(), "Wang^X=王^小東=😀"),
    "gb18030": ("GB18030", "Li^C=李^誠㐀".encode("gb18030"), "Li^C=李^誠㐀"),
    "gbk": ("GBK", "Li^C=李^誠淾".encode("gbk"), "Li^C=李^誠淾"),
    "simplified chinese, extended": (
        "\\ISO 2022 IR 58",
        b"Zhang^X=" + designated("张^小东", b"\x1b$)A", "gb2312") + b"=",
        "Zhang^X=张^小东",
    ),
    "simplified chinese, designated once": (
        "\\ISO 2022 IR 58",
        b"Zhang^X=\x1b$)A" + "张^小东".encode("gb2312"),
        "Zhang^X=张^小东",
    ),
    "korean": (
        "\\ISO 2022 IR 149",
        b"Hong^G="
        + designated("洪^吉洞", b"\x1b$)C", "euc_kr")
        + b"="
        + designated("홍^길동", b"\x1b$)C", "euc_kr"),
        "Hong^G=洪^吉洞=홍^길동",
    ),
    "korean, designated once": (
        "\\ISO 2022 IR 149",
        b"\x1b$)C" + "홍^길동".encode("euc_kr"),
        "홍^길동",
    ),
    "kanji": (
        "\\ISO 2022 IR 87",
        b"Yamada^S=" + jis_name("山田^秀春") + b"=" + jis_name("やまだ^しゅう"),
        "Yamada^S=山田^秀春=やまだ^しゅう",
    ),
    "kanji with every delimiter inside": (
        "\\ISO 2022 IR 87",
        b"A^B=" + jis_name("移楠楢^緯含淵秋"),
        "A^B=移楠楢^緯含淵秋",
    ),
    "katakana and kanji": (
        "ISO 2022 IR 13\\ISO 2022 IR 87",
        "ﾔﾏﾀﾞ^ﾀﾛｳ".encode("shift_jis") + b"=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    ),
    "supplementary kanji": (
        "\\ISO 2022 IR 87\\ISO 2022 IR 159",
        b"A^B=\x1b$(D0=0\\\x1b(B^" + jis("山田"),
        "A^B=" + b"\x1b$(D0=0\\\x1b(B".decode("iso2022_jp_2") + "^山田",
    ),
    "kanji without a leading empty value": ("ISO 2022 IR 87", jis_name("山田^太郎"), "山田^太郎"),
    "misspelt term": ("ISO-IR 100", "Müller^Özil".encode("latin-1"), "Müller^Özil"),
    "undeclared latin 1": ("", "Müller".encode("latin-1"), "Müller"),
    "undeclared utf-8": ("", "Müller^王".encode(), "Müller^王"),
    "declared utf-8, truly latin 1": ("ISO_IR 192", "Müller".encode("latin-1"), "Müller"),
    "unknown term, plain name": ("KLINGON", b"Doe^Jane", "Doe^Jane"),
}


def raw(keyword: str, vr: str, value: bytes) -> RawDataElement:
    value += b" " * (len(value) % 2)
    return RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)


def source_with_name(folder: Path, charset: str, name: bytes) -> Path:
    """RG1's header under a character set, with a name of exactly these bytes."""
    name += b" " * (len(name) % 2)
    placeholder = "#" * len(name)

    def mutate(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = charset.split("\\")
        dataset.PatientName = dataset.ReferringPhysicianName = placeholder

    path = chest_header(folder, mutate)
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name))
    return path


@pytest.mark.parametrize(("charset", "encoded", "name"), NAMES.values(), ids=NAMES.keys())
def test_a_name_is_kept_letter_by_letter(
    tmp_path: Path, charset: str, encoded: bytes, name: str
) -> None:
    case = chest_case(source_with_name(tmp_path, charset, encoded))

    paths = replace(case, arrays={}).store(tmp_path / "results")

    for path in paths.values():
        result = dcmread(path)
        assert str(result.PatientName) == name
        assert str(result.ReferringPhysicianName) == name
        assert result.SpecificCharacterSet == "ISO_IR 192"
        assert name.encode() in path.read_bytes()
        assert validate_result(path) == []


def test_every_character_set_sample_of_pydicom_reads_as_pydicom_reads_it() -> None:
    files = [Path(str(item)) for item in get_charset_files("chr*.dcm")]
    compared = 0
    for path in files:
        sample = dcmread(path)
        if not sample.get("PatientName"):
            continue
        raw_value = dcmread(path).get_item("PatientName")
        assert isinstance(raw_value, RawDataElement)
        assert raw_value.value is not None
        value = sample.get("SpecificCharacterSet") or ""
        terms = defined_terms([value] if isinstance(value, str) else list(value))
        text = decode_text(raw_value.value, terms, person_name=True)
        assert text.rstrip("=") == str(sample.PatientName)
        compared += 1
    assert compared >= 12


def test_texts_of_several_values_and_inside_sequences_are_decoded_too(tmp_path: Path) -> None:
    description = "胸部\r\n" + "正面"

    def mutate(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.StudyDescription = "胸部 X線"
        dataset.OtherPatientNames = ["山田^太郎", "やまだ^たろう"]
        dataset.PatientComments = description
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "胸部撮影"
        dataset.ProcedureCodeSequence = [item]

    case = chest_case(chest_header(tmp_path, mutate))

    for path in replace(case, arrays={}).store(tmp_path / "results").values():
        result = dcmread(path)
        assert result.StudyDescription == "胸部 X線"
        assert [str(name) for name in result.OtherPatientNames] == ["山田^太郎", "やまだ^たろう"]
        assert result.PatientComments == description
        assert result.ProcedureCodeSequence[0].CodeMeaning == "胸部撮影"
        assert validate_result(path) == []


def test_a_sequence_item_with_its_own_character_set_is_read_in_that() -> None:
    header = dcmread(chest_path(), stop_before_pixels=True)
    item = Dataset()
    item._dict[Tag("SpecificCharacterSet")] = raw("SpecificCharacterSet", "CS", b"ISO_IR 144")
    item._dict[Tag("CodeMeaning")] = raw("CodeMeaning", "LO", "Грудь".encode("iso8859-5"))
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ProcedureCodeSequence = [item]

    copied = normalised(header).ProcedureCodeSequence[0]

    assert copied.CodeMeaning == "Грудь"
    assert "SpecificCharacterSet" not in copied


def test_letters_in_a_character_set_that_does_not_exist_are_refused(tmp_path: Path) -> None:
    source = source_with_name(tmp_path, "KLINGON", "Müller".encode("latin-1"))

    with pytest.raises(BadInput, match=r"SpecificCharacterSet \(0008,0005\)") as caught:
        chest_case(source).build()

    assert "ller" not in str(caught.value)
