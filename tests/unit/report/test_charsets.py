"""Every Specific Character Set of PS3.3 C.12.1.1.2, tables C.12-2 to C.12-5, source to result."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.errors import BadInput
from tests.e2e.harness import tool
from tests.unit.report.cases import chest_case, chest_header
from tests.unit.report.test_names import NAMES, designated, jis_name, source_with_name

# Defined term of a single-byte set: escape sequence to G1 (table C.12-3), Python's name, a name.
SINGLE_BYTE = {
    "100": (b"\x1b-A", "latin-1", "Jérôme^Ñuño"),
    "101": (b"\x1b-B", "iso8859-2", "Wałęsa^Łucja"),
    "109": (b"\x1b-C", "iso8859-3", "Ĝoĉo^Ŝi"),
    "110": (b"\x1b-D", "iso8859-4", "Ķēniņš^Ģirts"),
    "126": (b"\x1b-F", "iso8859-7", "Διονύσιος^Ά"),
    "127": (b"\x1b-G", "iso8859-6", "قباني^لنزار"),
    "138": (b"\x1b-H", "iso8859-8", "שרון^דבורה"),
    "144": (b"\x1b-L", "iso8859-5", "Иванов^Пётр"),
    "148": (b"\x1b-M", "iso8859-9", "Çağrı^Şıvgın"),
    "166": (b"\x1b-T", "iso8859-11", "สมชาย^ใจดี"),
    "203": (b"\x1b-b", "iso8859-15", "Œuvré^Žana€"),
}
PLAIN = {
    "ISO_IR 6": ("ISO_IR 6", b"Doe^Jane", "Doe^Jane"),
    "ISO_IR 13": ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ".encode("shift_jis"), "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    **{
        f"ISO_IR {number}": (f"ISO_IR {number}", name.encode(encoding), name)
        for number, (_, encoding, name) in SINGLE_BYTE.items()
    },
}
DESIGNATED = {
    f"ISO 2022 IR {number} by escape": (
        f"ISO 2022 IR 6\\ISO 2022 IR {number}",
        b"A^B=" + designated(name, escape, encoding),
        f"A^B={name}",
    )
    for number, (escape, encoding, name) in SINGLE_BYTE.items()
}
INITIAL = {
    f"ISO 2022 IR {number} first, Kanji second": (
        f"ISO 2022 IR {number}\\ISO 2022 IR 87",
        name.encode(encoding) + b"=" + jis_name("山田^太郎"),
        f"{name}=山田^太郎",
    )
    for number, (_, encoding, name) in SINGLE_BYTE.items()
}
HALF_WIDTH = "ﾔﾏﾀﾞ^ﾀﾛｳ"
MIXED = {
    "Latin and Greek": (
        "ISO 2022 IR 100\\ISO 2022 IR 126",
        "Müller".encode("latin-1") + b"^" + b"\x1b-F" + "Ωδή".encode("iso8859-7"),
        "Müller^Ωδή",
    ),
    "Cyrillic and Hebrew": (
        "\\ISO 2022 IR 144\\ISO 2022 IR 138",
        designated("Иван", b"\x1b-L", "iso8859-5") + b"^" + b"\x1b-H" + "דוד".encode("iso8859-8"),
        "Иван^דוד",
    ),
    "Korean and Japanese": (
        "\\ISO 2022 IR 149\\ISO 2022 IR 87",
        designated("홍^길동", b"\x1b$)C", "euc_kr") + b"=" + jis_name("山田^太郎"),
        "홍^길동=山田^太郎",
    ),
    "Chinese and Korean": (
        "\\ISO 2022 IR 58\\ISO 2022 IR 149",
        b"A^B="
        + designated("张^小东", b"\x1b$)A", "gb2312")
        + b"="
        + designated("홍^길동", b"\x1b$)C", "euc_kr"),
        "A^B=张^小东=홍^길동",
    ),
    "half-width and full-width Japanese": (
        "ISO 2022 IR 13\\ISO 2022 IR 87\\ISO 2022 IR 159",
        HALF_WIDTH.encode("shift_jis") + b"=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        f"{HALF_WIDTH}=山田^太郎",
    ),
    "half-width by escape": (
        "\\ISO 2022 IR 13",
        b"\x1b)I" + "ﾔﾏﾀﾞ".encode("shift_jis") + b"^\x1b)I" + "ﾀﾛｳ".encode("shift_jis"),
        HALF_WIDTH,
    ),
    "all three groups in three sets": (
        "ISO 2022 IR 100\\ISO 2022 IR 87\\ISO 2022 IR 149",
        "Çelik^Ö".encode("latin-1")
        + b"="
        + jis_name("山田^太郎")
        + b"="
        + designated("홍^길동", b"\x1b$)C", "euc_kr"),
        "Çelik^Ö=山田^太郎=홍^길동",
    ),
    "GB18030, four bytes a letter": ("GB18030", "𠮷田^㐀".encode("gb18030"), "𠮷田^㐀"),
    "UTF-8 beyond the basic plane": ("ISO_IR 192", "𠮷田^Ώ".encode(), "𠮷田^Ώ"),
}
EVERY = PLAIN | DESIGNATED | INITIAL | MIXED
# Table C.12-2 to C.12-5: each defined term must occur in some case here or among the names.
DEFINED_TERMS = {
    *(f"ISO_IR {number}" for number in (6, 13, 192, *SINGLE_BYTE)),
    *(f"ISO 2022 IR {number}" for number in (6, 13, 87, 159, 149, 58, *SINGLE_BYTE)),
    "GB18030",
    "GBK",
}


def test_every_defined_term_is_tried() -> None:
    tried = {term for case in (EVERY | NAMES).values() for term in case[0].split("\\")}
    assert tried >= DEFINED_TERMS


@pytest.mark.parametrize(("charset", "encoded", "name"), EVERY.values(), ids=EVERY.keys())
def test_a_name_in_each_character_set_is_kept_letter_by_letter(
    tmp_path: Path, charset: str, encoded: bytes, name: str
) -> None:
    case = chest_case(source_with_name(tmp_path, charset, encoded))

    paths = replace(case, arrays={}).store(tmp_path / "results")

    assert set(paths) == {"SR", "SC"}
    for path in paths.values():
        result = dcmread(path)
        assert str(result.PatientName) == name
        assert str(result.ReferringPhysicianName) == name
        assert result.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.dcmtk
def test_another_toolkit_reads_the_same_letters(tmp_path: Path) -> None:
    dump = tool("dcmdump")
    assert shutil.which(dump)
    for number, (charset, encoded, name) in enumerate(MIXED.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        case = chest_case(source_with_name(folder, charset, encoded))
        for path in replace(case, arrays={}).store(folder / "results").values():
            said = subprocess.run(
                [dump, "+P", "0010,0010", str(path)], capture_output=True, check=True
            )
            assert f"[{name}]" in said.stdout.decode()


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "X" * 65),
        ("PatientName", "A^B=C^D=E^F=G^H"),
        ("PatientID", "9" * 65),
        ("IssuerOfPatientID", "H" * 65),
    ],
)
def test_identity_that_no_result_can_carry_whole_gives_none(
    tmp_path: Path, keyword: str, value: str
) -> None:
    def mutate(dataset: Dataset) -> None:
        setattr(dataset, keyword, value)

    with pytest.warns(UserWarning, match="."):
        source = chest_header(tmp_path, mutate)
    with pytest.raises(BadInput, match=keyword) as caught:
        chest_case(source).build()
    assert value not in str(caught.value)
