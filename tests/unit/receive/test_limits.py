"""What strangers may cost."""

from __future__ import annotations

from dicom_node.receive.limits import Connections, PerMinute, SparseLog


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
