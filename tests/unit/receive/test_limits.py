"""What strangers may cost."""

from __future__ import annotations

from dicom_node.receive.limits import Connections, Pace, PerMinute, SparseLog


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 120.0

    def __call__(self) -> float:
        return self.now


def test_events_are_counted_by_minute_and_key() -> None:
    clock = Clock()
    counts = PerMinute(clock)
    assert [counts.count("a"), counts.count("a"), counts.count("b")] == [1, 2, 1]
    assert (counts.seen("a"), counts.seen("c")) == (2, 0)
    clock.now += 60
    assert (counts.seen("a"), counts.count("a")) == (0, 1)


def test_connections_are_bounded_in_total_and_per_address() -> None:
    connections = Connections(3, 2)
    assert [connections.enter("a") for _ in range(3)] == [
        None, None, "dicom.max_connections_per_address"
    ]  # fmt: skip
    assert [connections.enter(host) for host in "bc"] == [None, "dicom.max_connections"]
    connections.leave("a")
    assert connections.enter("c") is None


def test_a_key_has_its_moments_evenly_and_does_not_save_them_up() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert [pace.wait_for("a", 4) for _ in range(4)] == [0, 0.25, 0.5, 0.75]
    assert pace.wait_for("b", 1) == 0
    clock.now += 0.75
    assert pace.wait_for("a", 4) == 0.25
    clock.now += 60
    assert [pace.wait_for("a", 4) for _ in range(2)] == [0, 0.25]


def test_the_paces_of_many_addresses_take_no_more_memory_than_those_that_wait() -> None:
    clock = Clock()
    pace = Pace(clock)
    for number in range(5000):
        assert pace.wait_for(number, 1000) == 0
        clock.now += 0.01
    assert len(pace._free_at) <= 1000
    assert pace.wait_for(4999, 0.1) == 0
    assert round(pace.wait_for(4999, 0.1), 6) == 10


def test_a_flood_leaves_a_few_lines_and_their_number() -> None:
    clock = Clock()
    log = SparseLog(clock)
    assert [log.admit("1.2.3.4", "unknown") for _ in range(1000)] == [0] * 5 + [None] * 995
    assert log.admit("5.6.7.8", "unknown") == 995
    clock.now += 60
    assert log.admit("1.2.3.4", "unknown") == 0


def test_a_flood_from_many_addresses_is_bounded_too() -> None:
    log = SparseLog(Clock())
    told = [log.admit(f"10.0.{n // 256}.{n % 256}", "x") is not None for n in range(5000)]
    assert sum(told) == 60
