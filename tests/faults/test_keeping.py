"""One node from end to end: names in their own letters, and files that go without a loss."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.store.overview import job_rows
from tests.e2e.harness import storescu, tool, wait_for
from tests.e2e.studies import radiograph
from tests.faults.stages import StageKeeper
from tests.faults.tally import Archive
from tests.unit.report.test_names import NAMES

pytestmark = [pytest.mark.dcmtk, pytest.mark.slow]

SENT = ("kanji", "katakana and kanji", "korean", "gb18030")


def named_film(folder: Path, seed: str, charset: str, encoded: bytes) -> Path:
    """A film whose Patient's Name is exactly these bytes in this Specific Character Set."""
    encoded += b" " * (len(encoded) % 2)
    stand_in = "#" * len(encoded)
    path = radiograph(folder, seed, SpecificCharacterSet=charset.split("\\"), PatientName=stand_in)
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), encoded, 1))
    return path


def stored_images(keeper: StageKeeper) -> list[Path]:
    return list((keeper.config.store_dir / "instances").rglob("*.dcm"))


def test_names_arrive_in_their_letters_and_a_resend_after_pruning_makes_no_second_result(
    keep_stages: Callable[..., StageKeeper], counting_archive: Archive, tmp_path: Path
) -> None:
    archive = counting_archive.scp
    keeper = keep_stages(send_to=[archive.peer], retention={"delivered": 3, "interval": 0.5})
    port = keeper.config.dicom.port
    assert port is not None
    films = {seed: named_film(tmp_path, seed, *NAMES[seed][:2]) for seed in SENT}
    storescu(port, list(films.values()))

    def delivered() -> bool:
        with keeper.database.read() as connection:
            rows = job_rows(connection, store_dir=keeper.config.store_dir)
        return [row["state"] for row in rows] == ["delivered"] * len(films)

    wait_for(delivered, 60, f"delivered, see {keeper.home}")
    names = {
        dcmread(path, stop_before_pixels=True).StudyInstanceUID: NAMES[seed][2]
        for seed, path in films.items()
    }
    assert len(archive.files()) == 2 * len(films)
    for path in archive.files():
        result = dcmread(path, stop_before_pixels=True)
        name = names[result.StudyInstanceUID]
        assert str(result.PatientName) == name
        assert result.SpecificCharacterSet == "ISO_IR 192"
        said = subprocess.run(
            [tool("dcmdump"), "+P", "0010,0010", str(path)], capture_output=True, check=True
        )
        assert f"[{name}]" in said.stdout.decode()

    wait_for(lambda: not stored_images(keeper), 30, "the images are pruned")
    storescu(port, list(films.values()))
    back: set[str] = set()  # the first one may be pruned before the last one is stored

    def are_back() -> bool:
        back.update(map(str, stored_images(keeper)))
        return len(back) == len(films)

    wait_for(are_back, 30, "the bytes are back")
    wait_for(lambda: not stored_images(keeper), 30, "and pruned again")
    assert delivered()
    assert len(archive.files()) == 2 * len(films)

    checked = subprocess.run(
        [sys.executable, "-m", "dicom_node", "fsck", "--deep"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=keeper.environment,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
