"""A training that is killed in the middle of an epoch goes on to its full number of epochs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training.cli import main
from training.kept import keep_array, kept_array

_SETTINGS = {
    "architecture": "FiveBlockCNN",
    "weights": "none",
    "side": "32",
    "epochs": "20",
    "batch_size": "4",
    "members": "2",
    "teachers": "2",
    "domain": "site",
}
_PARTS = ("teacher1", "teacher2", "member1", "member2", "without1")
_LONGEST_SECONDS = 300.0


def a_set(folder: Path, labels: tuple[str, str] = ("normal", "pneumonia")) -> Path:
    """Sixteen pictures, every other one brighter in the middle."""
    for number in range(16):
        grays = np.random.default_rng(number).integers(0, 90, (48, 40), np.uint8)
        grays[16:32, 12:28] += 60 * (number % 2)
        place = folder / labels[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grays).save(place)
    return folder


def epochs(member: Path) -> int:
    """Finished ones; 0 without a history."""
    history = member / "history.json"
    return len(json.loads(history.read_text())) if history.is_file() else 0


def words_of(folder: Path) -> list[str]:
    """A training of all parts, as one types it."""
    words = ["fit", "cxr_pneumonia", "--data", str(folder / "sites.csv"), "--name", "ours"]
    words += ["--workers", "0", "--runs", str(folder)]
    return words + [part for pair in _SETTINGS.items() for part in ("--set", "=".join(pair))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures and a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    films = sorted(a_set(folder / "films").glob("*/*.png"), key=lambda path: int(path.stem))
    rows = [f"{path},{path.parent.name},{'north' * (n < 2)}" for n, path in enumerate(films)]
    (folder / "sites.csv").write_text("\n".join(["path,label,site", *rows]))
    torch.set_num_threads(1)
    assert main([*words_of(folder), "--run", str(folder / "run")]) == 0
    return folder


def kill_once(words: list[str], begun: Callable[[], bool]) -> None:
    """Start a training and kill it as soon as something has begun."""
    with subprocess.Popen(
        [sys.executable, "-m", "training", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as training:
        deadline = time.monotonic() + _LONGEST_SECONDS
        while not begun():
            assert training.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        training.send_signal(signal.SIGKILL)
    assert training.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["teacher2", "member2", "without1"])
def test_killed_in_a_part_and_resumed_a_run_ends_as_if_nothing_had_been(
    whole: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    words, killed = words_of(whole), tmp_path / "killed"
    kill_once([*words, "--run", str(killed)], lambda: epochs(killed / stage) > 0)
    assert 0 < epochs(killed / stage) < int(_SETTINGS["epochs"])
    export = ["export", "ours", "--data", str(whole / "sites.csv"), "--run", str(killed)]
    export += ["--runs", str(whole), "--models", str(tmp_path / "models")]
    assert main(export) == 2
    if stage == "without1":  # all that the model itself needs is there
        assert (
            "killed is not finished: `python -m training fit --resume`" in capsys.readouterr().err
        )
    assert main([*words, "--run", str(killed), "--resume"]) == 0
    assert [epochs(killed / name) for name in (*_PARTS, ".")] == [20, 20, 20, 20, 20, 40]
    for part in (".", "without1"):
        expected, found = (
            load_file(folder / part / "weights.safetensors") for folder in (whole / "run", killed)
        )
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_killed_while_it_imitates_and_resumed_a_run_ends_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    a_set(tmp_path / "slices", ("noncovid", "covid"))
    settings = {name: _SETTINGS[name] for name in ("architecture", "weights", "side")}
    settings |= {"epochs": "2", "members": "1", "imitation_epochs": "40"}
    words = ["fit", "ct_covid", "--data", str(tmp_path / "slices"), "--name", "ours"]
    words += ["--workers", "0", "--runs", str(tmp_path)]
    words += [part for pair in settings.items() for part in ("--set", "=".join(pair))]
    folder = tmp_path / "killed" / "imitation"
    checkpoint = folder / "checkpoint.pt"
    kill_once([*words, "--run", str(tmp_path / "killed")], (folder / "views/view1.pt").is_file)
    assert not checkpoint.exists()
    assert not (folder / "views/view15.pt").exists()
    kill_once([*words, "--run", str(tmp_path / "killed"), "--resume"], checkpoint.is_file)
    assert 0 < torch.load(checkpoint, weights_only=True)["epoch"] < 40
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    for run in ("killed", "whole"):
        assert main([*words, "--run", str(tmp_path / run), "--resume"]) == 0
    found, expected = (
        load_file(tmp_path / run / "weights.safetensors") for run in ("killed", "whole")
    )
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_killed_before_an_array_is_in_place_the_old_one_stays(tmp_path: Path) -> None:
    file = tmp_path / "planes.npy"
    keep_array(file, np.arange(3))
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from training.kept import keep_array\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "keep_array(Path(sys.argv[1]), np.arange(9))\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert died.returncode == -signal.SIGKILL
    old = kept_array(file)
    assert old is not None
    assert old.tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2  # what the dead one wrote is in nobody's way
    keep_array(file, np.arange(9))
    new = kept_array(file)
    assert new is not None
    assert len(new) == 9
