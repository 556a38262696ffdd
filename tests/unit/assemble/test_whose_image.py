"""Whose images: what counts as the same name and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_node.assemble.header import Arrival, read_header
from dicom_node.assemble.identity import identity_digest, name_digests
from tests.builders import NOW
from tests.unit.report.test_names import NAMES, source_with_name


def named(name: str, **values: str) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = name
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Doe^Jane", "DOE^JANE"),
        ("Doe^Jane", "Doe^Jane^Mary"),
        ("Doe^Jane", "DOE JANE"),
        ("Doe^Jane", "Doe^Jane^^Dr^MD"),
        ("O'Neil^Zoë", "ONEIL^ZOE"),
        ("Müller^Jörg", "MULLER^JORG"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"),
    ],
)
def test_ways_to_write_one_name_are_one_name(one: str, other: str) -> None:
    assert name_digests(named(one)) == name_digests(named(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Doe^Jane", "Doe^John"),
        ("Doe^Jane", "Roe^Jane"),
        ("山田^太郎", "山田^次郎"),
        ("たかはし^はな", "たがはし^はな"),
        ("홍^길동", "홍^길순"),
    ],
)
def test_other_names_are_other_names(one: str, other: str) -> None:
    assert name_digests(named(one)) != name_digests(named(other))


def test_groups_are_told_apart_and_an_absent_name_is_no_name() -> None:
    roman, kanji, kana = name_digests(named("Yamada^Tarou=山田^太郎=やまだ^たろう")).split()
    assert len({roman, kanji, kana}) == 3
    assert name_digests(named("=山田^太郎")) == f"- {kanji} -"
    assert name_digests(named("")) == name_digests(Dataset()) == "- - -"


def test_one_name_in_two_character_sets_is_one_name(tmp_path: Path) -> None:
    seen = set()
    for number, (charset, encoded) in enumerate(
        [
            ("ISO_IR 100", "Müller^Özil".encode("latin-1")),
            ("ISO_IR 192", "Müller^Özil".encode()),
            ("", "Müller^Özil".encode()),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        header = read_header(source_with_name(folder, charset, encoded), Arrival("a", NOW))
        seen.add(header.name_digests)
    assert len(seen) == 1


def test_a_name_in_any_character_set_has_a_digest(tmp_path: Path) -> None:
    for number, (charset, encoded, name) in enumerate(NAMES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        header = read_header(source_with_name(folder, charset, encoded), Arrival("a", NOW))
        assert header.name_digests == name_digests(named(name))


def test_the_birth_date_is_part_of_the_identity() -> None:
    one, other = (named("Doe^Jane", PatientID="1", PatientBirthDate=date) for date in ("2001", "2"))
    assert identity_digest(one) != identity_digest(other)
