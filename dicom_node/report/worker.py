"""The report stage: predictions become result objects, checked before they reach the outbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import structlog

from dicom_node import __version__
from dicom_node.config import NodeConfig
from dicom_node.domain.findings import Prediction
from dicom_node.domain.jobs import JobStage
from dicom_node.errors import InvalidResult, NodeError, Transient, short_uid
from dicom_node.failpoint import failpoint
from dicom_node.guard import JobGuard
from dicom_node.report.build import ReportContext, ResultObject, build_results
from dicom_node.report.validate import validate_result
from dicom_node.store.database import Connection, Database
from dicom_node.store.files import waiting_for_the_disk, write_durably
from dicom_node.store.jobs import ClaimedJob, settle_parked
from dicom_node.store.leases import LeasedQueue
from dicom_node.store.outcomes import NewResult, predecessor_results, settle_reported
from dicom_node.store.predictions import load_prediction
from dicom_node.store.turns import Turns

_log = structlog.get_logger()


class Reporter:
    """Builds, checks and stores the result objects of one job at a time.

    Parameters
    ----------
    guard, turns
        Shared with whatever else works on jobs in this process.
    """

    def __init__(
        self,
        database: Database,
        config: NodeConfig,
        *,
        worker: str,
        clock: Callable[[], datetime],
        guard: JobGuard,
        turns: Turns,
    ) -> None:
        self._database = database
        self._config = config
        self._clock = clock
        self._guard = guard
        self._turns = turns
        self._queue = LeasedQueue(
            database, JobStage.REPORT, worker=worker, lease=config.scoring.lease, clock=clock
        )

    @property
    def unsettled(self) -> str | None:
        """Token of a claim that the database could not be told the end of."""
        return self._queue.unsettled

    def step(self) -> bool:
        """Report one job; False if none waits."""
        with self._queue.next_job(self._turns) as job:
            if job is not None:
                self._work_on(job)
        return job is not None

    def _work_on(self, job: ClaimedJob) -> None:
        failpoint("report.after_claim")
        log = _log.bind(job=job.id, study=short_uid(job.study_instance_uid))
        try:
            with self._queue.work(job), self._guard.watch(job):
                made, not_analysed = self._report(job)

            def write(connection: Connection) -> None:
                settle_reported(connection, job, made, not_analysed=not_analysed, now=self._clock())
                failpoint("report.before_commit")

            self._queue.settle(write)
            failpoint("report.after_commit")
            log.info("results stored", action="results_stored", count=len(made))
        except Transient:
            raise
        except Exception as error:  # noqa: BLE001 - one report must not take the scorer down
            # The text of a library's error may quote the data set: its type alone is told.
            told = str(error) if isinstance(error, NodeError) else type(error).__name__
            log.error("job parked", action="job_parked", error=told)
            reason = f"report: {told}"
            self._queue.settle(
                lambda connection: settle_parked(connection, job, error=reason, now=self._clock())
            )

    def _report(self, job: ClaimedJob) -> tuple[list[NewResult], bool]:
        store = self._config.store_dir
        assert job.prediction_path is not None, "the score stage wrote it"
        prediction, arrays = load_prediction(store / job.prediction_path)
        with self._database.read() as connection:
            previous = predecessor_results(connection, job)
        objects = build_results(
            self._context(job, previous),
            prediction,
            arrays,
            self._sources(job, prediction),
            job.result_kinds,
        )
        with waiting_for_the_disk():
            failpoint("report.after_build")
            made = [self._store(job, item) for item in objects]
        failpoint("report.after_store")
        return made, prediction.not_analysed is not None

    def _context(self, job: ClaimedJob, previous: dict[str, str]) -> ReportContext:
        report, store = self._config.report, self._config.store_dir
        assert job.scored_at is not None, "the score stage set it"
        return ReportContext(
            manufacturer=report.manufacturer,
            product_name=report.product_name,
            device_serial_number=report.device_serial_number,
            node_version=__version__,
            ae_title=self._config.ae_title,
            series_number_base=report.series_number_base,
            completed_at=job.scored_at.astimezone(),  # site-local, where the source states no zone
            revision=job.revision,
            input_digest=job.input_digest,
            previous_sr=store / previous["SR"] if "SR" in previous else None,
            previous_sc=store / previous["SC"] if "SC" in previous else None,
        )

    def _sources(self, job: ClaimedJob, prediction: Prediction) -> list[Path]:
        """Every instance that the prediction names, in the job's order; all if it names none."""
        named = set(prediction.source_sop_instance_uids)
        chosen = [item for item in job.inputs if not named or item.sop_instance_uid in named]
        return [self._config.store_dir / item.path for item in chosen]

    def _store(self, job: ClaimedJob, item: ResultObject) -> NewResult:
        """Write an object's bytes and check them; nothing invalid gets into the outbox.

        Raises
        ------
        InvalidResult
            A validator found an error; the file stays for inspection.
        """
        relative = f"results/{job.id}/{item.sop_instance_uid}.dcm"
        path = self._config.store_dir / relative
        write_durably(path, item.content)
        preview = None
        if item.png is not None:
            preview = f"results/{job.id}/{item.sop_instance_uid}.png"
            write_durably(self._config.store_dir / preview, item.png)
        if self._config.report.validate_results:
            _check(item.kind, validate_result(path))
        return NewResult(
            kind=item.kind,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            series_instance_uid=item.series_instance_uid,
            path=relative,
            preview_path=preview,
            sha256=sha256(item.content).hexdigest(),
        )


def _check(kind: str, problems: Sequence[str]) -> None:
    if problems:
        raise InvalidResult(f"the {kind} is not valid and was not sent: " + "; ".join(problems))
