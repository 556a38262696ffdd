"""Prometheus metrics, counted in the database when they are asked for.

No process keeps counters of its own: any web process of the node gives the same answer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dicom_node import __version__
from dicom_node.domain.jobs import JobState
from dicom_node.store.counts import Counts


class NodeCollector(Collector):
    """Turns `Counts` and the state of the disk into metrics.

    Parameters
    ----------
    read_counts
        Reads the numbers from the database; may raise `Transient`, which fails the scrape.
    """

    def __init__(
        self,
        read_counts: Callable[[], Counts],
        *,
        home: Path,
        inbox_dir: Path,
        clock: Callable[[], datetime],
    ) -> None:
        self._read_counts = read_counts
        self._home = home
        self._inbox_dir = inbox_dir
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, read now."""
        counts = self._read_counts()
        jobs = GaugeMetricFamily("dicom_node_jobs", "Jobs by state.", labels=["state"])
        for state in JobState:
            jobs.add_metric([state.value], counts.jobs_by_state.get(state.value, 0))
        yield jobs
        deliveries = GaugeMetricFamily(
            "dicom_node_deliveries",
            "Result objects by destination and state.",
            labels=["destination", "state"],
        )
        for labels, count in counts.deliveries.items():
            deliveries.add_metric(list(labels), count)
        yield deliveries
        yield from self._confirmation(counts)
        yield from self._single_values(counts)
        build = GaugeMetricFamily("dicom_node_build_info", "Version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _confirmation(self, counts: Counts) -> Iterator[Metric]:
        undelivered = GaugeMetricFamily(
            "dicom_node_oldest_undelivered_seconds",
            "Age of the oldest object without confirmation; parked ones left out.",
            labels=["destination"],
        )
        for destination, since in counts.undelivered_since.items():
            undelivered.add_metric([destination], (self._clock() - since).total_seconds())
        yield undelivered
        requests = GaugeMetricFamily(
            "dicom_node_commitment_requests",
            "Senders' requests for storage commitment by state of their answer.",
            labels=["state"],
        )
        for state, count in counts.commitment_requests.items():
            requests.add_metric([state], count)
        yield requests

    def _single_values(self, counts: Counts) -> Iterator[Metric]:
        age = self._seconds_since(counts.oldest_queued_at)
        lapsed = max(0.0, self._seconds_since(counts.oldest_lease_until))
        unrouted = self._seconds_since(counts.unrouted_since)
        waiting = waiting_files(self._inbox_dir)
        for name, text, value in (
            ("instances", "Data sets received and kept.", counts.instances),
            ("studies_receiving", "Studies that are not complete yet.", counts.studies_receiving),
            ("quarantined_files", "Files whose header cannot be read.", counts.quarantined),
            ("models_offered", "Model versions that a scorer offers.", counts.models_offered),
            ("oldest_queued_job_seconds", "Age of the oldest queued job.", age),
            ("oldest_lapsed_lease_seconds", "Since a running job's lease is over.", lapsed),
            ("oldest_unrouted_study_seconds", "Since its newest image came.", unrouted),
            ("conflicting_instances", "Known UIDs with other bytes.", counts.conflicting_instances),
            ("damaged_results", "Stored objects found changed, not sent.", counts.damaged_results),
            ("inbox_files", "Received files that are not recorded yet.", waiting),
            ("pruned_bytes", "Bytes that retention gave up.", counts.pruned_bytes),
            ("disk_free_bytes", "Free space at home.", shutil.disk_usage(self._home).free),
        ):
            yield GaugeMetricFamily(f"dicom_node_{name}", text, value=value)

    def _seconds_since(self, moment: datetime | None) -> float:
        return 0.0 if moment is None else (self._clock() - moment).total_seconds()


def waiting_files(inbox_dir: Path) -> int:
    """Count the received files that are not recorded yet; an inbox that does not exist is empty."""
    return sum(file.suffix == ".dcm" for folder in _entries(inbox_dir) for file in _entries(folder))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []  # the assembler removes folders while we look


def node_registry(collector: NodeCollector) -> CollectorRegistry:
    """A registry with the node's metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
