"""Turns overlap unless somebody must be alone; nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dicom_node.store.turns import Turns

SECONDS = 20.0
MOMENT = 0.2


class Worker:
    """A thread that takes a turn and keeps it until told to leave."""

    def __init__(self, turns: Turns, *, alone: bool) -> None:
        self.has_it, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, args=(turns, alone), daemon=True)
        self._thread.start()

    def _work(self, turns: Turns, alone: bool) -> None:
        with turns.take(alone=alone):
            self.has_it.set()
            self._leave.wait(SECONDS)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@contextmanager
def working(turns: Turns, *, alone: bool) -> Iterator[Worker]:
    worker = Worker(turns, alone=alone)
    assert worker.has_it.wait(SECONDS)
    yield worker
    worker.leave()


def test_turns_overlap() -> None:
    turns = Turns()
    with working(turns, alone=False), working(turns, alone=False):
        pass


def test_who_wants_to_be_alone_waits_for_all_and_goes_before_who_comes_later() -> None:
    turns = Turns()
    with working(turns, alone=False) as first, working(turns, alone=False) as second:
        suspect = Worker(turns, alone=True)
        assert not suspect.has_it.wait(MOMENT)
        later = Worker(turns, alone=False)
        first.leave()
        assert not suspect.has_it.wait(MOMENT)
        assert not later.has_it.is_set()
        second.leave()
        assert suspect.has_it.wait(SECONDS)
        assert not later.has_it.wait(MOMENT)
        suspect.leave()
        assert later.has_it.wait(SECONDS)
        later.leave()


def test_two_suspects_follow_each_other() -> None:
    turns = Turns()
    with working(turns, alone=True):
        other = Worker(turns, alone=True)
        assert not other.has_it.wait(MOMENT)
    assert other.has_it.wait(SECONDS)
    other.leave()


def test_a_turn_that_ends_by_an_error_is_over() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns.take(alone=True):
        raise ValueError("broken")
    with working(turns, alone=True):
        pass
