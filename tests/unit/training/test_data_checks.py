"""Everything that would spoil a training is said before it starts, with file or row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import Picture, open_source
from training.data.checks import LISTED, check
from training.data.splits import learnable
from training.errors import TrainingDataError
from training.recipes.base import keep_all

HEADER = ("path", "label", "split", "patient_id")
LABELS = ("normal", "covid")
SOUND = (
    ("1.png", "normal", "train", "p1"),
    ("2.png", "normal", "train", "p2"),
    ("3.png", "covid", "train", "p3"),
    ("4.png", "covid", "validation", "p4"),
    ("5.png", "covid", "test", "p5"),
)


def a_set(folder: Path, rows: Sequence[Sequence[str]]) -> Path:
    """A table of small pictures; returns its path."""
    folder.mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        grays = np.arange(number, number + 48, dtype=np.uint8).reshape(6, 8)
        Image.fromarray(grays).save(folder / row[0])
    path = folder / "toy.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def problems(path: Path, *, published: bool = False) -> list[str]:
    with pytest.raises(TrainingDataError) as caught:
        check(open_source(path), LABELS, published=published)
    first, *lines = str(caught.value).splitlines()
    assert first == f"toy cannot be learned from; problems: {len(lines)}"
    return [line.removeprefix("  - ") for line in lines]


def test_a_sound_set_has_neither_problems_nor_warnings(tmp_path: Path) -> None:
    assert check(open_source(a_set(tmp_path, SOUND)), LABELS) == []


def test_a_blank_picture_teaches_nothing(tmp_path: Path) -> None:
    path = a_set(tmp_path, SOUND)
    Image.new("L", (8, 8), 7).save(tmp_path / "3.png")
    assert problems(path) == ["toy: 3.png is blank: all its pixels are alike; remove it"]


def test_damaged_pictures_are_found_by_decoding_every_file(tmp_path: Path) -> None:
    path = a_set(tmp_path, SOUND)
    whole = np.random.default_rng(1).integers(0, 255, (32, 32), np.uint8)
    Image.fromarray(whole).save(tmp_path / "2.png")
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "5.png").write_text("no picture")
    first, second = problems(path)
    assert first.startswith("toy: 2.png cannot be decoded")
    assert second.startswith("toy: 5.png cannot be decoded")


def test_a_picture_of_numbers_that_are_none_is_found(tmp_path: Path) -> None:
    picture = np.zeros((4, 4), np.float32)
    picture[0, 0] = np.nan
    path = a_set(tmp_path, [*SOUND, ("6.tif", "covid", "train", "p6")])
    Image.fromarray(picture).save(tmp_path / "6.tif")
    assert problems(path) == ["toy: 6.tif holds values that are no numbers; remove it"]


def test_copies_whose_names_hold_a_number_sign_are_copies(tmp_path: Path) -> None:
    rows = [("dup#1.png", "normal", "train", "p8"), ("dup#2.png", "covid", "train", "p9")]
    path = a_set(tmp_path, [*SOUND, *rows])
    (tmp_path / "dup#2.png").write_bytes((tmp_path / "dup#1.png").read_bytes())
    assert problems(path) == ["dup#1.png (normal) and dup#2.png (covid) are one picture"]


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    path = a_set(tmp_path, SOUND)
    with path.open("a", encoding="utf-8") as file:
        file.write("7.png,normal,train,p7\n8.png,,train,p8\n1.png,normal,test,p1\n")
    (tmp_path / "3.png").write_text("no picture")
    found = problems(path)
    assert found[0] == "toy.csv line 8: 8.png has no label"
    assert found[1] == "toy: 1.png: named twice, as normal train, normal test: neither counts"
    assert found[2].startswith("toy: 3.png cannot be decoded")
    assert found[3].startswith("toy: 7.png is named but cannot be read")


def test_a_class_without_images_is_a_problem_that_says_what_there_is(tmp_path: Path) -> None:
    rows = [row for row in SOUND if row[1] == "covid"]
    path = a_set(tmp_path, [*rows, ("9.png", "healthy", "train", "p9")])
    assert problems(path) == [
        "no image of normal: each of normal, covid needs some; there are images of healthy"
    ]


def test_one_class_alone_is_a_problem(tmp_path: Path) -> None:
    source = open_source(a_set(tmp_path, SOUND))
    with pytest.raises(TrainingDataError, match="there is only one class, covid"):
        check(source, ["covid"])


def test_a_label_map_makes_foreign_labels_known(tmp_path: Path) -> None:
    path = a_set(
        tmp_path, [(*row[:1], row[1].replace("normal", "healthy"), *row[2:]) for row in SOUND]
    )
    assert check(open_source(path), LABELS, label_map={"healthy": "normal"}) == []


def test_unknown_labels_are_counted_in_a_warning(tmp_path: Path) -> None:
    path = a_set(tmp_path, [*SOUND, ("9.png", "other", "train", "p9")])
    assert check(open_source(path), LABELS) == [
        "1 images have the label 'other', which is none of normal, covid: they are left out; a "
        "label map can name what they are"
    ]


def test_a_patient_in_two_splits_is_a_problem_unless_it_is_allowed(tmp_path: Path) -> None:
    path = a_set(tmp_path, [*SOUND, ("6.png", "covid", "test", "p3")])
    sentence = "one patient or group is in test (6.png) and train (3.png); keep it in one of them"
    assert problems(path) == [sentence]
    assert check(open_source(path), LABELS, published=True) == [
        f"groups in two splits: 1; the first: {sentence}"
    ]


def test_a_class_of_one_patient_is_a_problem_and_test_images_do_not_help(tmp_path: Path) -> None:
    rows = [*SOUND[1:], ("6.png", "normal", "train", "p2"), ("7.png", "normal", "test", "p7")]
    (found,) = problems(a_set(tmp_path, rows))
    assert found.startswith("all 2 images of normal belong to one patient or group")


def test_pictures_without_a_label_are_a_warning(tmp_path: Path) -> None:
    path = a_set(tmp_path, SOUND)
    (tmp_path / "more").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "more" / "x.jpg")
    assert check(open_source(path), LABELS) == [
        "pictures in toy without a label: 1; they are left out; the first is more/x.jpg"
    ]


def test_a_set_that_names_no_patients_says_so(tmp_path: Path) -> None:
    for place, label in enumerate(LABELS):
        (tmp_path / label).mkdir()
        for number in range(2):
            side = 64 + 2 * place + number
            Image.linear_gradient("L").resize((side, side)).save(tmp_path / label / f"{number}.png")
    (warning,) = check(open_source(tmp_path), LABELS)
    assert warning.startswith("nothing says which images are of one patient")


def test_an_empty_class_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "covid").mkdir()
    for number in range(2):
        Image.linear_gradient("L").save(tmp_path / "covid" / f"{number}.png")
    with pytest.raises(TrainingDataError) as caught:
        check(open_source(tmp_path), LABELS)
    assert "class folder normal holds no picture" in str(caught.value)
    assert "no image of normal" in str(caught.value)


def test_a_manifest_that_names_a_path_twice_or_an_odd_split_is_a_problem(tmp_path: Path) -> None:
    rows = [*SOUND, ("6.png", "covid", "dev", "p6")]
    path = a_set(tmp_path / "toy", rows).rename(tmp_path / "toy" / "manifest.csv")
    with path.open("a", encoding="utf-8") as file:
        file.write(",".join(SOUND[0]) + "\n")
    found = problems(tmp_path / "toy")
    assert "6.png: split 'dev'; train, validation or test can be written there, or nothing" in found
    assert f"toy: {SOUND[0][0]}: named twice; keep one row" in found


def test_a_long_list_is_cut_and_the_number_told(tmp_path: Path) -> None:
    path = a_set(tmp_path, SOUND)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"absent{number}.png,covid,train,q{number}\n" for number in range(25))
    with pytest.raises(TrainingDataError) as caught:
        check(open_source(path), LABELS)
    first, *lines, last = str(caught.value).splitlines()
    assert first == "toy cannot be learned from; problems: 25"
    assert len(lines) == LISTED
    assert last == "  ... and 5 more"


def test_a_patient_in_the_test_split_and_in_no_split_is_in_both(tmp_path: Path) -> None:
    rows = [*SOUND, ("6.png", "covid", "", "p5")]
    assert problems(a_set(tmp_path, rows)) == [
        "one patient or group is in test (5.png) and train (6.png); keep it in one of them"
    ]
    nowhere = [(path, label, "", "p" + path[0]) for path, label, _, _ in SOUND]
    assert (
        check(open_source(a_set(tmp_path, [*nowhere, ("6.png", "covid", "", "p5")])), LABELS) == []
    )


def learned(path: Path) -> list[str]:
    """Names of the pictures of a table from which a training would learn."""
    nothing = np.zeros((1, 1, 1), np.float32)
    pictures = [Picture(item, nothing, 0) for item in open_source(path).items]
    return [picture.item.path for picture in learnable(pictures, keep_all)]


def test_one_picture_under_two_labels_is_a_problem_and_under_one_is_learned_once(
    tmp_path: Path,
) -> None:
    path = a_set(tmp_path, [*SOUND, ("6.png", "normal", "train", "p6")])
    (tmp_path / "6.png").write_bytes((tmp_path / "3.png").read_bytes())
    said = "6.png (normal) and 3.png (covid) are one picture"
    assert problems(path) == [said]
    (warning,) = check(open_source(path), LABELS, published=True)
    assert warning == f"pictures under two labels: 1; the first: {said}"
    (tmp_path / "6.png").write_bytes((tmp_path / "2.png").read_bytes())
    source = open_source(path)
    assert check(source, LABELS) == []
    pictures = [Picture(item, np.zeros((1, 1, 1), np.float32), 0) for item in source.items]
    kept = [picture.item.path for picture in learnable(pictures, keep_all)]
    assert kept == ["1.png", "2.png", "3.png", "4.png"]
    (tmp_path / "1.png").write_bytes((tmp_path / "5.png").read_bytes())
    pictures = [
        Picture(item, np.zeros((1, 1, 1), np.float32), 0) for item in open_source(path).items
    ]
    kept = [picture.item.path for picture in learnable(pictures, keep_all)]
    assert kept == ["2.png", "3.png", "4.png"], "a copy of a test picture is not learned from"
