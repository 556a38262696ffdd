"""Jobs with real result files in the outbox, and a courier whose clock a test turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_node.config import NodeConfig, load_config
from dicom_node.deliver.worker import Courier
from dicom_node.domain.retry import RetryPolicy
from dicom_node.store import outcomes, routing, studies
from dicom_node.store.counts import counts
from dicom_node.store.database import Database
from dicom_node.store.overview import job_rows
from tests.builders import IMAGE, NOW, PREDICTION, claim, new_job, record

CT = Path(str(get_testdata_file("CT_small.dcm")))
POLICY = RetryPolicy()


class SetClock:
    """A wall clock that stands still until a test turns it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, step: timedelta) -> None:
        self.now += step


class Outbox:
    """A node's database and store with results to deliver, and its courier.

    Parameters
    ----------
    destinations
        Name to settings, as in the configuration file.
    """

    def __init__(
        self,
        database: Database,
        home: Path,
        destinations: Mapping[str, Mapping[str, Any]],
        *,
        policy: RetryPolicy = POLICY,
        clock: Callable[[], datetime] | None = None,
        **settings: Any,
    ) -> None:
        self.database = database
        self.config: NodeConfig = load_config(
            None, {"home": str(home), "destinations": dict(destinations), **settings}
        )
        self.clock = SetClock()
        self._numbers = count(1)
        self._policy = policy
        self._read_clock = clock or self.clock
        self.courier = self.new_courier()

    def new_courier(self) -> Courier:
        """Another courier on the same outbox, such as one that is started after a crash."""
        return Courier(
            self.database, self.config, self._policy, worker="test", clock=self._read_clock
        )

    def add(self, destinations: Sequence[str]) -> str:
        """Put one result into the outbox; returns its SOP Instance UID."""
        number = next(self._numbers)
        study_uid, uid = f"2.25.1{number}", f"2.25.9{number}"
        image = replace(
            IMAGE,
            study_instance_uid=study_uid,
            sop_instance_uid=f"2.25.5{number}",
            digest=f"{number:064x}",
        )
        record(self.database, image)
        with self.database.begin() as connection:
            for study in studies.open_studies(connection):
                studies.complete_study(connection, study, because="test", now=NOW)
            complete = routing.next_complete_study(connection)
            assert complete is not None
            routing.mark_routed(connection, complete, [])
            job = replace(new_job(complete, f"{number:064x}"), destinations=tuple(destinations))
            routing.add_job(connection, job, now=NOW)
        held = claim(self.database)
        assert held is not None
        with self.database.begin() as connection:
            outcomes.settle_predicted(connection, held, PREDICTION, prediction_path="p", now=NOW)
        held = claim(self.database)
        assert held is not None
        sop_class_uid, digest = self._write(uid, study_uid)
        path = f"results/{number}.dcm"
        result = outcomes.NewResult("SR", sop_class_uid, uid, f"2.25.7{number}", path, None, digest)
        with self.database.begin() as connection:
            outcomes.settle_reported(connection, held, [result], not_analysed=False, now=NOW)
        return uid

    def _write(self, uid: str, study_uid: str) -> tuple[str, str]:
        number = uid.removeprefix("2.25.9")
        data_set = dcmread(CT)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = study_uid, f"2.25.7{number}"
        path = self.config.store_dir / "results" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        data_set.save_as(path)
        return str(data_set.SOPClassUID), sha256(path.read_bytes()).hexdigest()

    def step(self, by: timedelta = timedelta(0)) -> None:
        """Turn the clock, then do everything that is due, to its end."""
        self.clock.advance(by)
        self.courier.dispatch()
        self.courier.join()

    def steps(self, count: int, by: timedelta) -> None:
        """Turn the clock so many times."""
        for _ in range(count):
            self.step(by)

    def jobs(self) -> list[dict[str, Any]]:
        """Every job as `jobs list --json` shows it, oldest first."""
        with self.database.read() as connection:
            return job_rows(connection, store_dir=self.config.store_dir)[::-1]

    def deliveries(self, destination: str | None = None) -> list[dict[str, Any]]:
        """Every delivery (to one destination), oldest first."""
        rows = [item for job in self.jobs() for item in job["deliveries"]]
        return [row for row in rows if destination in (None, row["destination"])]

    def only_delivery(self) -> dict[str, Any]:
        """The one delivery."""
        (row,) = self.deliveries()
        return row

    def metric(self, destination: str, state: str) -> int:
        """What the alarm on deliveries counts."""
        with self.database.read() as connection:
            return counts(connection).deliveries.get((destination, state), 0)
