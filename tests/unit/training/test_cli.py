"""The command line, from someone's own DICOM files to a model that the node serves."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from dicom_node.score.bundle import read_bundle
from dicom_node.score.engine import open_classifier
from dicom_node.score.study import score_files
from tests.unit.score.synthetic import chest_like, dataset_of
from training.cli import app, main
from training.recipes import RECIPES
from training.runs import read_json, recipe_of

TINY = [
    *("--set", "architecture=FiveBlockCNN", "--set", "weights=none", "--set", "side=32"),
    *("--set", "lung_attention=0", "--set", "lung_backgrounds=0"),
    *("--set", "epochs=1", "--set", "batch_size=4", "--set", "members=2"),
    *("--set", "domain=site"),
]
COMMANDS = (
    *("list", "prepare", "lr-find", "fit", "export", "all"),
    *("evaluate", "explain", "compare", "card", "confounding", "repeated"),
)


@dataclass(frozen=True)
class Place:
    """Where a test keeps its data, runs and models."""

    root: Path

    @property
    def table(self) -> Path:
        return self.root / "films" / "labels.csv"

    @property
    def runs(self) -> list[str]:
        return ["--runs", str(self.root / "runs")]

    @property
    def models(self) -> list[str]:
        return ["--models", str(self.root / "models")]


def write_films(folder: Path) -> None:
    """Sixteen radiographs of sixteen children, every other one brighter in the middle."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(16):
        stored = chest_like(60, 50).astype(np.uint16) * 12
        stored += np.random.default_rng(number).integers(0, 200, stored.shape, np.uint16)
        stored[20:40, 15:35] += (number % 2) * 700
        attributes = {"BitsStored": 12, "HighBit": 11, "Modality": "DX"}
        film = dataset_of(stored, PatientID=f"p{number}", **attributes)
        film.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        split = "test" if number >= 12 else "train"
        site = "north" if number < 2 else ""
        rows.append((f"{number}.dcm", ("healthy", "ill")[number % 2], split, f"p{number}", site))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split", "patient_id", "site"), *rows])


def write_pictures(folder: Path, count: int) -> None:
    """Pictures of alternating labels, four of a ward, and the manifest without splits."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.linear_gradient("L").rotate(10 * number).save(folder / f"{number}.png")
    rows = [f"{i}.png,{('normal', 'pneumonia')[i % 2]},ward{i // 4}" for i in range(count)]
    (folder / "manifest.csv").write_text("\n".join(["path,label,ward", *rows]) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Trained and exported from DICOM files and a table of labels."""
    torch.set_num_threads(1)
    made = Place(tmp_path_factory.mktemp("site"))
    write_films(made.table.parent)
    own = ["--data", str(made.table), "--label-map", "healthy=normal,ill=pneumonia", *made.runs]
    fitted = main(["fit", "cxr_pneumonia", "--name", "ours", *own, *TINY, "--workers", "0"])
    assert fitted == 0
    assert main(["export", "ours", *own, *made.models]) == 0
    return made


def test_own_dicom_files_become_a_model_that_the_node_serves(place: Place) -> None:
    bundle = read_bundle(place.root / "models" / "ours")
    classifier = open_classifier(bundle, device="cpu")
    films = sorted(place.table.parent.glob("*.dcm"))[:1]
    result = score_files(bundle, classifier, films, out_of_scope="mark")
    assert result is not None
    assert bundle.name == "ours"
    assert bundle.metadata.dicom_node.labels == ("normal", "pneumonia")


def test_thresholds_of_own_data_are_chosen_site_by_site(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (place.root / "models" / "ours" / "docs" / "README.md").read_text()
    assert "| north | 2 | 1 |" in card
    assert "--set domain=site" in card
    own = ["--data", str(place.table), "--label-map", "healthy=normal,ill=pneumonia"]
    words = ["--name", "lost", "--runs", str(tmp_path), *TINY, "--set", "domain=hospital"]
    assert main(["fit", "cxr_pneumonia", *own, *words]) == 2
    assert "the data have no column 'hospital' to tell domains by" in capsys.readouterr().err
    assert not (tmp_path / "lost").exists()


def test_a_run_knows_the_recipe_and_the_data_it_came_from(place: Place) -> None:
    run = place.root / "runs" / "ours"
    recipe = recipe_of(run)
    assert (recipe.name, recipe.data_set) == ("ours", "labels")
    assert recipe.limits != RECIPES["cxr_pneumonia"].limits
    assert read_json(run, "config.json")["data"]["n"]["test"] == 4
    text = (run / "config.json").read_text()
    assert str(place.root) not in text
    assert (run / "validation" / "confusion_matrix.png").is_file()


def test_evaluate_prints_json_and_nothing_else(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "ours", str(place.table), "--split", "test", "--json", *place.models]
    assert main([*arguments, "--label-map", "healthy=normal,ill=pneumonia"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 4
    assert {"accuracy", "auc", "refused_fraction", "ci95", "accepted"} <= report.keys()
    assert main([*arguments, "--group-by", "patient_id"]) == 2


def test_every_command_with_json_prints_json_alone(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--label-map", "healthy=normal,ill=pneumonia"]
    own = ["--data", str(place.table), *words]
    runs = ["--runs", str(tmp_path)]
    train = ["cxr_pneumonia", *own, *runs, *TINY]
    shown = {}
    for name, command in {
        "prepare": ["prepare", *train],
        "fit": ["fit", *train, "--name", "again", "--workers", "0"],
        "lr-find": ["lr-find", *train, "--name", "rates", "--steps", "10"],
        "export": ["export", "again", *own, *runs, "--models", str(tmp_path), "--version", "7.1.0"],
        "evaluate": ["evaluate", "ours", str(place.table), *words, *place.models],
        "explain": ["explain", "ours", str(place.table), *words, *place.models, "--out"],
        "compare": ["compare", "ours", "ours", *own, *place.models],
        "card": ["card", "ours", *place.models],
    }.items():
        extra = [str(tmp_path / "explained")] if name == "explain" else []
        assert main([*command, *extra, "--json"]) == 0, name
        shown[name] = json.loads(capsys.readouterr().out)
    assert [entry["member"] for entry in shown["fit"]["history"]] == [1, 2]
    assert shown["export"]["version"] == "7.1.0"
    assert shown["card"]["dicom_node"]["name"] == "ours"
    assert shown["lr-find"]["suggestion"] > 0


def test_new_weights_under_an_old_version_are_remarked(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--data", str(place.table), "--label-map", "healthy=normal,ill=pneumonia"]
    to = ["--runs", str(tmp_path), "--models", str(tmp_path / "models")]
    for seed, version, said in (("1", "1.0.0", 0), ("1", "1.0.0", 0), ("2", "1.0.0", 1)):
        words = ["--name", "mine", "--runs", str(tmp_path), "--set", f"seed={seed}", *own, *TINY]
        assert main(["fit", "cxr_pneumonia", *words, "--workers", "0", "--overwrite"]) == 0
        assert main(["export", "mine", *own, *to, "--version", version]) == 0
        assert capsys.readouterr().err.count("mine 1.0.0 had other weights before") == said


def test_evaluate_takes_another_operating_point(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "ours", str(place.table), *place.models]
    words += ["--label-map", "healthy=normal,ill=pneumonia"]
    assert main([*words, "--operating-point", "high_specificity", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["operating_point"] == "high_specificity"
    assert main([*words, "--operating-point", "best"]) == 2
    assert "it has high_sensitivity, balanced, high_specificity" in capsys.readouterr().err


def test_evaluate_says_what_it_left_out_and_shows_groups(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 8)
    (tmp_path / "7.png").write_bytes(b"torn")
    assert main(["evaluate", "ours", str(tmp_path), "--group-by", "ward", *place.models]) == 0
    said = capsys.readouterr()
    assert "warning: left out:" in said.err
    assert "7.png" in said.err
    assert "left out: unreadable" in said.out
    assert "ward1" in said.out


@pytest.mark.parametrize("command", ["evaluate", "explain", "compare"])
def test_a_label_map_that_does_not_fit_is_told(
    command: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "evaluate": ["ours", str(place.table)],
        "explain": ["ours", str(place.table), "--out", str(tmp_path)],
        "compare": ["ours", "ours", "--data", str(place.table)],
    }[command]
    words = [command, *words, *place.models, "--json", "--label-map"]
    assert main([*words, "healthy=normal,ill=pneumonai"]) == 2
    said = capsys.readouterr().err
    assert "label map ill=pneumonai: " in said
    assert "has no label 'pneumonai'; it has normal, pneumonia" in said
    assert main([*words, "healthy=normal,ill=pneumonia,sick=pneumonia"]) == 0
    said = capsys.readouterr()
    assert "warning: label map sick=pneumonia: no picture of labels, split test, has" in said.err
    json.loads(said.out)


def test_a_split_of_the_table_s_own_name_can_be_judged_but_not_learned_from(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = place.table.parent / "holdout.csv"
    table.write_text(place.table.read_text().replace(",test,", ",holdout,"))
    mapped = ["--label-map", "healthy=normal,ill=pneumonia"]
    for split, count in (("holdout", 4), ("all", 16)):
        words = ["--split", split, "--json", *mapped, *place.models]
        assert main(["evaluate", "ours", str(table), *words]) == 0
        assert json.loads(capsys.readouterr().out)["n"] == count
    assert main(["evaluate", "ours", str(table), "--split", "tset", *mapped, *place.models]) == 2
    assert "has no split 'tset'; it has holdout, train, or all" in capsys.readouterr().err
    own = ["cxr_pneumonia", "--data", str(table), *mapped, "--runs", str(tmp_path), *TINY]
    for command in (["prepare", *own], ["fit", *own, "--name", "lost", "--workers", "0"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "12.dcm: split 'holdout'; train, validation or test can be written" in said
    assert not (tmp_path / "lost").exists()


def test_the_next_command_that_fit_prints_exports_that_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In pairs of wards, so that another grouping divides the films otherwise.
    table, rows = place.table.parent / "our [wards].csv", []
    with place.table.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            rows.append(row | {"ward": f"w{number // 2}"})
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    own = ["--data", str(table), "--label-map", "healthy=normal, ill=pneumonia"]
    own += ["--group-column", "ward", "--runs", str(tmp_path / "my runs")]
    words = ["fit", "cxr_pneumonia", "--name", "wards", *own, *TINY, "--workers", "0"]
    assert main(words) == 0
    *_, printed = capsys.readouterr().out.partition("next: python -m training ")
    assert shlex.split(printed) == ["export", "wards", *own]
    assert main([*shlex.split(printed), "--models", str(tmp_path / "models")]) == 0


def test_explain_takes_a_source_without_splits_whole(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 4)
    to = str(tmp_path / "out")
    assert main(["explain", "ours", str(tmp_path), "--out", to, "--json", *place.models]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4


def test_evaluate_shows_a_table_to_people(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(place.root / "models" / "ours")
    words = ["--label-map", "healthy=normal,ill=pneumonia"]
    assert main(["evaluate", model, str(place.table), *words]) == 0
    shown = capsys.readouterr().out
    assert "sensitivity" in shown
    assert "refused by the scope gate" in shown


def test_explain_compare_and_card_have_something_to_show(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--label-map", "healthy=normal,ill=pneumonia", *place.models]
    to = place.root / "explained"
    assert main(["explain", "ours", str(place.table), "--out", str(to), *words]) == 0
    assert list(to.glob("*.png"))
    assert main(["compare", "ours", "ours", "--data", str(place.table), *words]) == 0
    assert "ours" in capsys.readouterr().out
    assert main(["card", "ours", *place.models]) == 0
    assert "# " in capsys.readouterr().out


def test_prepare_counts_pictures_by_split(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--label-map", "healthy=normal,ill=pneumonia", "--json", *place.runs]
    assert main(["prepare", "cxr_pneumonia", "--data", str(place.table), *words, *TINY]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["test"] == {"normal": 2, "pneumonia": 2}
    assert sum(counted["train"].values()) + sum(counted["validation"].values()) == 12


def test_lr_find_suggests_a_rate(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--label-map", "healthy=normal,ill=pneumonia", "--steps", "10", *place.runs, *TINY]
    words = ["lr-find", "cxr_pneumonia", "--data", str(place.table), *words]
    assert main(words) == 2, "the run of the recipe itself is left alone"
    assert "--name of its own" in capsys.readouterr().err
    assert main([*words, "--name", "rates"]) == 0
    assert "the loss falls fastest at" in capsys.readouterr().out
    assert (place.root / "runs" / "rates" / "lr_find.png").is_file()


def test_a_run_is_not_replaced_unless_asked(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place.root / "runs" / "ours", tmp_path / "ours")
    (tmp_path / "ours" / "config.json").unlink()  # as a kill in the second member leaves it
    own = ["--data", str(place.table), "--label-map", "healthy=normal,ill=pneumonia"]
    words = ["fit", "cxr_pneumonia", "--name", "ours", *own, *TINY, "--runs", str(tmp_path)]
    weights = (tmp_path / "ours" / "weights.safetensors").read_bytes()
    assert main([*words, "--workers", "0"]) == 2
    assert "holds a run: --resume goes on with it, --overwrite" in capsys.readouterr().err
    assert (tmp_path / "ours" / "weights.safetensors").read_bytes() == weights
    assert main([*words, "--workers", "0", "--resume"]) == 0
    assert main([*words, "--workers", "0", "--overwrite", "--set", "seed=9"]) == 0
    assert (tmp_path / "ours" / "weights.safetensors").read_bytes() != weights


def test_an_export_has_the_name_the_data_and_a_version_above_that_of_the_model(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place.root / "runs" / "ours", tmp_path / "runs" / "ours")
    shutil.copytree(place.root / "models" / "ours", tmp_path / "models" / "ours")
    own = ["--data", str(place.table)]  # the run knows what its labels mean
    to = [*own, "--runs", str(tmp_path / "runs"), "--models", str(tmp_path / "models")]
    for words, said in (
        (["cxr_pneumonia", *to, "--run", str(tmp_path / "runs" / "ours")], "is the run of ours"),
        (["ours", *to, "--version", "1.0"], "write three numbers, for example 1.0.0"),
        (["ours", *to, "--version", "0.0.9"], "which 0.0.9 would not replace"),
    ):
        assert main(["export", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["export", "ours", *to, "--version", "1.0.0"]) == 0
    assert main(["export", "ours", *to]) == 2
    assert "is version 1.0.0" in capsys.readouterr().err
    card = (tmp_path / "models" / "ours" / "docs" / "README.md").read_text()
    mapped = "--label-map healthy=normal,ill=pneumonia"
    assert f"evaluate ours DATA {mapped}`, DATA being where labels lies" in card
    assert f"--data DATA --name ours {mapped} --set" in card
    assert "| test split | 4 |" in card
    assert "official" not in card
    (tmp_path / "runs" / "ours" / "timing.json").unlink()  # as a kill leaves it
    assert main(["export", "ours", *to, "--version", "2.0.0"]) == 2
    assert "is not finished: `python -m training fit --resume`" in capsys.readouterr().err


def test_what_groups_and_ages_own_data_have_is_told_before_training(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--label-map", "healthy=normal,ill=pneumonia", *place.runs, *TINY]
    words = ["prepare", "cxr_pneumonia", "--data", str(place.table), *words]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "groups (patient_id)" in said.out
    assert "the node would refuse 16 of 16 of these images by their header" in said.err
    assert "200 x 200 pixels or more, 1 to 5 years\n" in said.err, "all of them are too small"
    assert main([*words, "--group-column", "site"]) == 0
    assert "groups (site)" in capsys.readouterr().out


def test_ages_of_own_data_that_the_node_would_refuse_are_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        stored = np.random.default_rng(number).integers(0, 4000, (220, 210), np.uint16)
        attributes = {"BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientAge": "040Y"}
        film = dataset_of(stored, PatientID=f"p{number}", Modality="DX", **attributes)
        folder = tmp_path / "films" / ("normal", "pneumonia")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        film.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    words = ["cxr_pneumonia", "--data", str(tmp_path / "films"), "--runs", str(tmp_path), *TINY]
    words = ["prepare", *words, "--set", "domain=none"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "refuse 8 of 8" in said
    assert "1 to 5 years; --set age=LOW-HIGH" in said
    assert "40" not in said, "how old a patient is"
    assert main([*words, "--set", "age=18-120"]) == 0
    assert "the node would refuse" not in capsys.readouterr().err


def test_pictures_that_cannot_say_whom_they_are_of_are_remarked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        folder = tmp_path / "films" / ("normal", "pneumonia")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(10 * number).save(folder / f"{number}.png")
    words = ["cxr_pneumonia", "--data", str(tmp_path / "films"), "--runs", str(tmp_path), *TINY]
    words = ["prepare", *words, "--set", "domain=none"]
    assert main(words) == 0
    assert "declared for patients of 1 to 5 years; --set age=" in capsys.readouterr().err
    assert main([*words, "--set", "age=any"]) == 0
    assert "declared for patients" not in capsys.readouterr().err


def test_data_without_splits_from_which_the_model_learned_are_told(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, warned in (("labels", True), ("others", False)):
        films = tmp_path / name
        write_pictures(films, 4)
        assert main(["evaluate", "ours", str(films), "--json", *place.models]) == 0
        said = capsys.readouterr()
        assert ("ours learned from data named labels" in said.err) == warned
        json.loads(said.out)
    words = ["evaluate", "ours", str(place.table), "--json", *place.models]
    words += ["--label-map", "healthy=normal,ill=pneumonia"]
    for split in ("test", "train"):
        assert main([*words, "--split", split]) == 0
        assert ("learned from" in capsys.readouterr().err) == (split == "train")
    assert main([*words[:-1], "healthy=normal"]) == 0
    said = capsys.readouterr()
    assert "warning: left out: label 'ill', n 2" in said.err
    assert json.loads(said.out)["unknown_labels"] == {"ill": 2}


def test_what_was_mistyped_is_told_before_anything_is_scored(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("training.evaluate.predict", scored)
    words = ["evaluate", "ours", str(place.table), *place.models]
    assert main([*words, "--seed", "-1"]) == 2
    assert main([*words, "--group-by", "wrad"]) == 2
    assert "labels has no column 'wrad' to group by; it has " in capsys.readouterr().err


def test_explain_goes_on_without_a_damaged_picture(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 4)
    (tmp_path / "3.png").write_bytes(b"torn")
    to = str(tmp_path / "out")
    assert main(["explain", "ours", str(tmp_path), "--out", to, "--json", *place.models]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["n"] == 3
    assert "3.png cannot be decoded" in said.err


def test_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert all(word in shown for word in (name, recipe.data_set, recipe.architecture))
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == RECIPES.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_no_other_commands_are_there() -> None:
    registered = typer.main.get_command(app)
    assert set(registered.commands) == set(COMMANDS)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "nothing"], "there is no recipe 'nothing'"),
        (["fit", "cxr_pneumonia", "--set", "epochs"], "write KEY=VALUE"),
        (["fit", "cxr_pneumonia", "--set", "colour=red"], "only epochs"),
        (["fit", "cxr_pneumonia", "--data", "nowhere.csv", "--name", "x"], "does not exist"),
        (["fit", "cxr_pneumonia", "--data", "nowhere.csv"], "--name of its own"),
        (["fit", "cxr_pneumonia", "--name", "../x"], "'../x' cannot name a model"),
        (["evaluate", "nothing", "covid3_cxr"], "is no model folder"),
        (["export", "nothing", "--runs", "nowhere"], "no readable config.json"),
        (["fit", "cxr_pneumonia", "--set", "age=18-120"], "it needs --data"),
        (["fit", "cxr_pneumonia", "--set", "seed=x"], "--set seed=x: a number is needed"),
        (["fit", "cxr_pneumonia", "--name", "ct_covid"], "--name ct_covid is taken"),
        (["fit", "cxr_pneumonia", "--resume", "--overwrite"], "choose one"),
        (["fit"], "Missing argument"),
        (["frobnicate"], "No such command"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_place_that_cannot_be_written_to_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(place.table), "--label-map", "healthy=normal,ill=pneumonia", *place.models]
    nowhere = str(tmp_path / "nowhere" / "scores.csv")
    assert main(["evaluate", "ours", *words, "--predictions", nowhere]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("no folder")
    assert main(["explain", "ours", *words, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "error: [Errno 20] Not a directory" in capsys.readouterr().err


def test_bad_data_are_listed_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("normal", "pneumonia"):
        (tmp_path / "films" / label).mkdir(parents=True)
    Image.new("L", (40, 40)).save(tmp_path / "films" / "normal" / "1.png")
    (tmp_path / "films" / "normal" / "2.png").write_bytes(b"torn")
    words = ["--name", "x", "--runs", str(tmp_path)]
    assert main(["fit", "cxr_pneumonia", "--data", str(tmp_path / "films"), *words]) == 2
    said = capsys.readouterr().err
    assert "2.png" in said
    assert "pneumonia" in said
    assert not (tmp_path / "x").exists()


def test_export_refuses_other_data_than_those_of_the_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*place.runs, "--models", str(tmp_path)]
    assert main(["export", "ours", *words]) == 2
    assert "name it with --data" in capsys.readouterr().err
    rows = place.table.read_text().splitlines()
    (place.table.parent / "fewer.csv").write_text("\n".join(rows[:-2]) + "\n")
    words += ["--label-map", "healthy=normal,ill=pneumonia"]
    assert main(["export", "ours", "--data", str(place.table.parent / "fewer.csv"), *words]) == 2
    assert "trained on other pictures" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["planes", "cxr_pneumonia", "ct_covid"])
def test_names_of_shipped_models_and_of_the_kept_pictures_are_taken(
    name: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(place.table), "--runs", str(tmp_path / "runs"), *TINY]
    assert main(["fit", "cxr_pneumonia", *words, "--name", name]) == 2
    assert f"--name {name} is taken" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_export_writes_into_the_folder_of_the_models_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "../escaped", "--runs", str(tmp_path)]) == 2
    assert "'../escaped' cannot name a model" in capsys.readouterr().err


def test_explain_tells_what_it_left_out_and_evaluate_what_the_node_would_not_score(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = place.table.parent / "sick.csv"
    lines = place.table.read_text().splitlines()
    places = [number for number, line in enumerate(lines) if ",ill,test," in line]
    lines[places[0]] = lines[places[0]].replace(",ill,", ",sick,")
    table.write_text("\n".join([*lines, "absent.dcm,ill,test," + "x," * 9]) + "\n")
    mapped = ["--label-map", "healthy=normal,ill=pneumonia", *place.models]
    assert main(["explain", "ours", str(table), "--out", str(tmp_path), *mapped]) == 0
    said = capsys.readouterr().err
    assert "warning: left out: label 'sick', n 1" in said
    assert "line 18: not" in said
    assert main(["evaluate", "ours", str(place.table), *mapped]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"refused by header, counted .*4 ", shown), "no film says how old the child is"
