"""Every form of labelled images is opened for what it is, and what is none of them is refused."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from pydicom.data import get_testdata_file

from dicom_node.score.transforms import Pipeline
from training import runs
from training.data import Splits, load_pictures
from training.data.folders import open_class_folders
from training.data.opening import open_source
from training.data.tables import open_table
from training.errors import TrainingDataError
from training.predict import write_csv
from training.recipes import RECIPES


def picture(path: Path, value: int = 100) -> Path:
    """A small picture of one gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), value, np.uint8)).save(path)
    return path


def table(path: Path, *rows: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_folder_for_each_class_gives_its_name_as_label(tmp_path: Path) -> None:
    picture(tmp_path / "set/normal/b.png", 10)
    picture(tmp_path / "set/normal/a.jpeg")
    picture(tmp_path / "set/pneumonia/deep/c.TIF")
    (tmp_path / "set/normal/notes.txt").write_text("no picture")
    (tmp_path / "set/.hidden").mkdir()
    source = open_source(tmp_path / "set")
    assert [(item.path, item.label, item.split, item.units) for item in source.items] == [
        ("normal/a.jpeg", "normal", "", "display"),
        ("normal/b.png", "normal", "", "display"),
        ("pneumonia/deep/c.TIF", "pneumonia", "", "display"),
    ]
    assert source.problems == ()
    image = source.read(source.items[1])
    assert image.shape == (6, 8)
    assert image.dtype == np.float32
    assert image.max() == 10


def test_class_folders_below_train_val_and_test_give_the_split(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            picture(tmp_path / split / label / "1.png")
    items = open_source(tmp_path).items
    assert [(item.split, item.label) for item in items] == [
        ("test", "a"),
        ("test", "b"),
        ("train", "a"),
        ("train", "b"),
        ("validation", "a"),
        ("validation", "b"),
    ]


def test_a_class_that_is_called_test_is_a_class_beside_others(tmp_path: Path) -> None:
    picture(tmp_path / "test/1.png")
    picture(tmp_path / "control/1.png")
    assert {item.label for item in open_source(tmp_path).items} == {"test", "control"}


def test_folders_of_splits_are_known_in_any_case_and_not_mixed_with_others(tmp_path: Path) -> None:
    for split in ("Train", "TEST"):
        picture(tmp_path / split / "a" / "1.png")
        picture(tmp_path / split / "a" / "._1.png")  # macOS packs these beside
    picture(tmp_path / "__MACOSX" / "Train" / "a" / "1.png")
    items = open_source(tmp_path).items
    assert [(item.split, item.path) for item in items] == [
        ("test", "TEST/a/1.png"),
        ("train", "Train/a/1.png"),
    ]
    picture(tmp_path / "chest_xray" / "a" / "1.png")
    with pytest.raises(TrainingDataError, match=r"beside TEST and Train lies chest_xray;"):
        open_source(tmp_path)


def test_an_empty_class_folder_is_a_problem_that_names_it(tmp_path: Path) -> None:
    picture(tmp_path / "set/train/a/1.png")
    (tmp_path / "set/train/b").mkdir()
    assert open_class_folders(tmp_path / "set").problems == (
        "set: class folder train/b holds no picture and no DICOM file",
    )


def test_a_table_names_pictures_beside_it(tmp_path: Path) -> None:
    picture(tmp_path / "films/1.png", 7)
    picture(tmp_path / "films/2.bmp")
    path = table(
        tmp_path / "list.csv",
        ("path", "label", "split", "patient_id", "sex"),
        ("./films/1.png", "normal", "Train", "p1", "f"),
        ("films/2.bmp", "covid", "val", "p2", "m"),
    )
    source = open_source(path)
    first, second = source.items
    assert (first.path, first.label, first.split, first.group) == (
        "films/1.png",
        "normal",
        "train",
        "p1",
    )
    assert first.columns["sex"] == "f"
    assert (second.split, second.group) == ("validation", "p2")
    assert source.read(first).max() == 7
    assert {item.group for item in open_source(path, group_column="sex").items} == {"f", "m"}


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    path = tmp_path / "list.csv"
    path.write_text("path,label\n1.png,normal\n", encoding="utf-8-sig")
    assert len(open_table(path).items) == 1


def test_the_rows_that_are_wrong_are_problems_with_line_or_file(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    path = table(
        tmp_path / "list.csv",
        ("path", "label", "split"),
        ("1.png", "normal", "train"),
        ("2.png", "normal"),
        ("", "normal", "train"),
        ("3.png", "", "train"),
        ("4.png", "normal", "train"),
        ("./1.png", "normal", "train"),
        ("absent.dcm", "normal", ""),
        ("5.png", "normal", "test"),
        ("5.png", "covid", "test"),
    )
    source = open_table(path)
    assert source.problems == (
        "list.csv line 3: not 3 columns",
        "list.csv line 4: a label without an image",
        "list.csv line 5: 3.png has no label",
        "list: 1.png: named twice; keep one row",
        "list: 5.png: named twice, as normal test, covid test: neither counts",
    )
    assert [item.path for item in source.items] == ["1.png", "4.png", "absent.dcm"]
    assert source.read(source.items[0]).any()
    for item in source.items[1:]:
        with pytest.raises(TrainingDataError) as caught:
            source.read(item)
        assert str(caught.value) == (
            f"list: {item.path} is named but cannot be read (No such file or directory)"
        )


def test_another_word_for_a_split_is_kept_as_it_is_written(tmp_path: Path) -> None:
    words = ("Holdout", "dev", "VAL", "")
    rows = [(f"{n}.png", "normal", word) for n, word in enumerate(words)]
    for name, _, _ in rows:
        picture(tmp_path / name)
    source = open_table(table(tmp_path / "list.csv", ("path", "label", "split"), *rows))
    assert [item.split for item in source.items] == ["Holdout", "dev", "validation", ""]
    assert source.problems == ()


def test_another_picture_under_the_same_name_is_told_apart(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png", 1)
    before = open_class_folders(tmp_path).items[0].columns["sha256"]
    picture(tmp_path / "a/1.png", 2)
    assert open_class_folders(tmp_path).items[0].columns["sha256"] != before


def test_a_picture_that_goes_away_after_opening_is_named(tmp_path: Path) -> None:
    gone = picture(tmp_path / "set/a/1.png")
    source = open_class_folders(tmp_path / "set")
    gone.unlink()
    with pytest.raises(TrainingDataError, match=r"set: a/1.png cannot be read \(No such file"):
        source.read(source.items[0])


def test_a_folder_and_a_tar_with_a_manifest_and_a_published_name_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOM_NODE_DATA", str(tmp_path))
    table(tmp_path / "toy/manifest.csv", ("path", "label"), ("1.png", "normal"))
    picture(tmp_path / "toy/1.png")
    with tarfile.open(tmp_path / "published.tar", "w") as archive:
        for name in ("manifest.csv", "1.png"):
            archive.add(tmp_path / "toy" / name, name)
    for path in (tmp_path / "toy", tmp_path / "published.tar", Path("published")):
        source = open_source(path)
        assert [item.label for item in source.items] == ["normal"]
        assert source.read(source.items[0]).shape == (6, 8)


def test_what_is_none_of_the_forms_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    film = picture(tmp_path / "film.png")
    for path, found in (
        (tmp_path / "empty", "empty is a folder without manifest.csv and without class folders"),
        (film, "film.png is a file of another kind"),
        (Path("no_such_set"), "no_such_set does not exist and is no published set"),
    ):
        with pytest.raises(TrainingDataError) as caught:
            open_source(path)
        assert str(caught.value).startswith(f"{found}; accepted are a tar or folder with")


def test_columns_that_are_needed_and_absent_are_named(tmp_path: Path) -> None:
    path = table(tmp_path / "list.csv", ("file", "label"), ("1.png", "normal"))
    with pytest.raises(TrainingDataError, match=r"list.csv: column path, sex is missing"):
        open_source(path, group_column="sex")
    picture(tmp_path / "set/a/1.png")
    with pytest.raises(TrainingDataError, match="has a folder for each class and so no column sex"):
        open_source(tmp_path / "set", group_column="sex")


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,label\n\xff\xfe,normal\n")
    with pytest.raises(TrainingDataError, match=r"list.csv cannot be read as CSV in UTF-8"):
        open_source(path)


def test_blanks_around_the_cells_of_a_table_do_not_count(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    rows = [("path", "label", "split", "patient_id"), (" 1.png", "normal ", " Test", " p1 ")]
    (item,) = open_source(table(tmp_path / "list.csv", *rows, ("1.png", "  ", "", ""))).items
    assert (item.path, item.label, item.split, item.group) == ("1.png", "normal", "test", "p1")
    source = open_source(table(tmp_path / "bad.csv", *rows, ("2.png", "  ", "", "")))
    assert source.problems == ("bad.csv line 3: 2.png has no label",)


def test_dicom_without_a_suffix_and_other_pictures_are_taken_from_class_folders(
    tmp_path: Path,
) -> None:
    for name in ("1.gif", "2.webp"):
        picture(tmp_path / "set/a" / name)
    whole = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    (tmp_path / "set/a/IM0001").write_bytes(whole)
    (tmp_path / "set/a/README").write_text("no picture")
    (tmp_path / "set/a/.hidden").write_bytes(whole)
    source = open_class_folders(tmp_path / "set")
    assert [item.path for item in source.items] == ["a/1.gif", "a/2.webp", "a/IM0001"]
    assert source.problems == ()
    assert [source.read(item).ndim for item in source.items] == [2, 2, 2]


def test_a_name_that_is_no_utf8_is_a_name(tmp_path: Path) -> None:
    file = picture(tmp_path / "set/a/1.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(file)
    file.rename(os.fsdecode(os.fsencode(file.parent) + b"/M\xfcller.png"))
    source = open_class_folders(tmp_path / "set")
    pipeline = Pipeline(RECIPES["cxr_pneumonia"].preprocessing)
    loaded = load_pictures(source, pipeline, ["a"], cache=tmp_path / "kept")
    assert len(loaded.pictures) == 1
    assert runs.data_digest(Splits(loaded.pictures, [], []))
    write_csv(tmp_path / "rows.csv", [{"path": source.items[0].path}])
    assert "ller.png" in (tmp_path / "rows.csv").read_text()


def a_tar(path: Path, rows: list[tuple[str, ...]], **pictures: int) -> Path:
    """A tar of a manifest and pictures of one gray each."""
    table(path.parent / "manifest.csv", *rows)
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "manifest.csv", "manifest.csv")
        for name, value in pictures.items():
            archive.add(picture(path.parent / f"{name}.png", value), f"{name}.png")
    return path


def test_a_tar_is_known_by_what_is_in_it_whatever_its_manifest_says(tmp_path: Path) -> None:
    rows = [("path", "label", "sha256"), ("one.png", "a", "0" * 64)]
    digests = [
        open_source(a_tar(tmp_path / "set.tar", rows, one=value)).items[0].columns["sha256"]
        for value in (1, 2)
    ]
    assert len({*digests, "0" * 64}) == 3


def test_a_dicom_file_in_a_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    film = tmp_path / "set" / "film.dcm"
    film.write_bytes(bytes(128) + b"DICM" + bytes(64))
    (tmp_path / "set" / "manifest.csv").write_text("path,label\nfilm.dcm,normal\n")
    with tarfile.open(tmp_path / "films.tar", "w") as archive:
        for file in (tmp_path / "set").iterdir():
            archive.add(file, file.name)
    source = open_source(tmp_path / "films.tar")
    with pytest.raises(TrainingDataError, match=r"film\.dcm is a DICOM file.*unpack it"):
        source.read(source.items[0])


def test_a_row_of_a_tar_that_comes_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    rows = [("path", "label"), ("one.png", "a"), ("./one.png", "a"), ("two.png", "a")]
    rows += [("./two.png", "b"), ("three.png", "b")]
    source = open_source(a_tar(tmp_path / "set.tar", rows, one=1, two=2, three=3))
    assert [(item.path, item.label) for item in source.items] == [
        ("one.png", "a"),
        ("three.png", "b"),
    ]
    assert source.problems == (
        "set: one.png: named twice; keep one row",
        "set: two.png: named twice, as a, b: neither counts",
    )


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".tar.gz", gzip.compress), (".TGZ", gzip.compress), (".tar.bz2", bz2.compress),
     (".txz", lzma.compress), (".tar", gzip.compress)],
)  # fmt: skip
def test_a_compressed_tar_is_a_tar(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    rows = [("path", "label"), ("one.png", "a"), ("two.png", "b")]
    plain = a_tar(tmp_path / "my.set.tar", rows, one=1, two=2)
    content = pack(plain.read_bytes())
    packed = tmp_path / "packed" / f"my.set{ending}"
    packed.parent.mkdir()
    packed.write_bytes(content)
    source, wanted = open_source(packed), open_source(plain)
    assert (source.name, source.items) == (wanted.name, wanted.items)
    for item in reversed(source.items):
        np.testing.assert_array_equal(source.read(item), wanted.read(item))
    packed.write_bytes(content[:-20])
    with pytest.raises(TrainingDataError, match=r"my\.set.* is no readable tar: .*end"):
        open_source(packed)


def test_a_manifest_in_a_folder_of_a_tar_is_found_if_it_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "adults").mkdir()
    picture(tmp_path / "adults" / "img" / "1.png")
    table(tmp_path / "adults" / "manifest.csv", ("path", "label"), ("img/./1.png", "a"))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "adults", "./adults")
    source = open_source(tmp_path / "set.tar")
    assert [item.path for item in source.items] == ["img/1.png"]
    assert source.read(source.items[0]).any()
    with tarfile.open(tmp_path / "set.tar", "a") as archive:
        archive.add(tmp_path / "adults", "children")
    with pytest.raises(TrainingDataError, match=r"adults/manifest\.csv, children/manifest\.csv"):
        open_source(tmp_path / "set.tar")


def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    upright = Image.linear_gradient("L").resize((40, 60))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # show it turned by 90 degrees clockwise
    (tmp_path / "a").mkdir()
    upright.save(tmp_path / "a" / "1.png")
    turned.save(tmp_path / "a" / "2.png", exif=exif)
    source = open_class_folders(tmp_path)
    first, second = (source.read(item) for item in source.items)
    np.testing.assert_array_equal(first, second)


def test_words_for_nobody_name_no_patient(tmp_path: Path) -> None:
    words = ("Unknown", "n/a", "-", "p1")
    for number in range(len(words)):
        picture(tmp_path / f"{number}.png")
    rows = [(f"{number}.png", "a", word) for number, word in enumerate(words)]
    source = open_table(table(tmp_path / "list.csv", ("path", "label", "patient_id"), *rows))
    assert [item.group for item in source.items] == ["", "", "", "p1"]


def test_a_link_to_nowhere_and_an_endless_cell_are_told(tmp_path: Path) -> None:
    path = a_tar(tmp_path / "set.tar", [("path", "label"), ("gone.png", "a")])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("gone.png")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere.png"
        archive.addfile(link)
    source = open_source(path)
    with pytest.raises(TrainingDataError, match=r"gone\.png is no file"):
        source.read(source.items[0])
    endless = a_tar(tmp_path / "endless.tar", [("path", "label"), ("x" * 200_000, "a")])
    with pytest.raises(TrainingDataError, match=r"endless\.tar: manifest\.csv is no CSV"):
        open_source(endless)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path;label\n1.png;a\n", "path, label is missing.*, separated by commas$"),
        ("path\tlabel\n1.png\ta\n", ", separated by commas$"),
        ("PATH,Label\n1.png,a\n", ", in small letters$"),
        ("path,label,label\n1.png,a,b\n", "column label is named twice"),
        ("Doe^Jane,1\n", "at least path and label$"),
    ],
)
def test_what_is_odd_about_a_first_line_is_said(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(TrainingDataError, match=words) as caught:
        open_table(tmp_path / "list.csv")
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("text", ["path , label\n1.png, a\n", "path,label,,\n1.png,a,,\n"])
def test_blanks_and_empty_columns_are_not_seen(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "list.csv").write_text(text)
    assert [item.label for item in open_table(tmp_path / "list.csv").items] == ["a"]
