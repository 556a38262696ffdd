"""What was found stays mended, and a quick look for more; campaigns run by `tests.faults.fuzz`."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.assemble.elements import Encoding, PlainStream, excerpt
from dicom_node.errors import BadInput
from tests.faults.fuzz import associations
from tests.faults.fuzz.loop import _too_long, attempt
from tests.faults.fuzz.mutate import mutate
from tests.faults.fuzz.targets import TARGETS

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.bin"))
_RUNS = 60


@pytest.fixture(autouse=True)
def _end_hangs() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, _too_long)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path, tmp_path: Path) -> None:
    target = path.stem.partition("-")[0]
    assert attempt(TARGETS[target].run, path.read_bytes(), tmp_path) is None


@pytest.mark.parametrize("target", TARGETS)
@settings(
    max_examples=_RUNS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    database=None,
)
@given(seed=st.integers(min_value=0))
def test_nothing_but_the_documented_error_comes_out(target: str, seed: int, tmp_path: Path) -> None:
    chance, begin = random.Random(seed), TARGETS[target].begin()
    content = mutate(chance, chance.choice(begin), begin)
    assert attempt(TARGETS[target].run, content, tmp_path) is None


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(content=st.binary(max_size=300), implicit=st.booleans(), little=st.booleans())
def test_an_excerpt_holds_only_what_was_wanted(
    content: bytes, implicit: bool, little: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    with path.open("rb") as file:
        stream = PlainStream(file, len(content))
        try:
            assert excerpt(stream, (), Encoding(implicit, little)) == b""
        except BadInput:
            return


def test_mutated_associations_leave_the_receiver_as_it_was() -> None:
    report = associations.campaign(100, 60, seed=1)
    assert report.failures == []
    assert report.honest == 1
    assert report.after is not None
    assert report.after.threads <= 3
