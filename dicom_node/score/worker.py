"""The score stage: claims jobs, applies the model that the rules chose, writes what it says."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime

import structlog

from dicom_node.config import NodeConfig
from dicom_node.domain.jobs import JobStage
from dicom_node.domain.retry import GiveUp, RetryPolicy, decide_retry
from dicom_node.errors import (
    BadInput,
    IdentityConflict,
    ModelError,
    NodeError,
    Permanent,
    Transient,
    short_uid,
)
from dicom_node.failpoint import failpoint
from dicom_node.guard import JobGuard
from dicom_node.observe.audit import NOT_AUDITED, Audit, AuditEvent, StudyPart
from dicom_node.score.bundle import Bundle, find_bundles
from dicom_node.score.catalog import describe
from dicom_node.score.engine import Classifier, open_classifier
from dicom_node.score.outcome import Outcome, OutOfScope
from dicom_node.score.study import score_files
from dicom_node.store.database import Connection, Database
from dicom_node.store.files import waiting_for_the_disk
from dicom_node.store.jobs import (
    ClaimedJob,
    settle_failed,
    settle_parked,
    settle_retry,
)
from dicom_node.store.leases import LeasedQueue
from dicom_node.store.models import record_model
from dicom_node.store.outcomes import settle_predicted
from dicom_node.store.predictions import save_prediction
from dicom_node.store.turns import Turns

_log = structlog.get_logger()


class Scorer:
    """Holds the models warm and scores one job at a time.

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
        audit: Audit = NOT_AUDITED,
    ) -> None:
        self._audit = audit
        self._database = database
        self._config = config
        self._clock = clock
        self._guard = guard
        self._turns = turns
        self._queue = LeasedQueue(
            database, JobStage.SCORE, worker=worker, lease=config.scoring.lease, clock=clock
        )
        self._classifiers: dict[tuple[str, str], Classifier] = {}

    @property
    def unsettled(self) -> str | None:
        """Token of a claim that the database could not be told the end of."""
        return self._queue.unsettled

    def load_models(self) -> None:
        """Verify every model folder, warm the good ones up and offer them to the rules."""
        bundles, refused = find_bundles(self._config.models_dir)
        for bundle in bundles:
            try:
                self._load(bundle)
            except ModelError as error:
                refused[bundle.name] = str(error)
        now = self._clock()
        with self._database.begin() as connection:
            for name, reason in refused.items():
                _log.error("model refused", action="model_refused", model=name, reason=reason)
                record_model(
                    connection,
                    name=name,
                    version="",
                    weights_sha256=None,
                    description={},
                    reason=reason,
                    now=now,
                )
            for classifier in self._classifiers.values():
                identity = classifier.bundle.identity
                record_model(
                    connection,
                    name=identity.name,
                    version=identity.version,
                    weights_sha256=identity.weights_sha256,
                    description=describe(classifier.bundle),
                    reason=None,
                    now=now,
                )

    def model_digests(self) -> dict[str, str]:
        """Name to SHA-256 of the weights of each model that is offered."""
        return {
            classifier.bundle.name: classifier.bundle.identity.weights_sha256
            for classifier in self._classifiers.values()
        }

    def _load(self, bundle: Bundle) -> None:
        scoring = self._config.scoring
        classifier = open_classifier(
            bundle, device=scoring.device, threads=scoring.threads, batch_size=scoring.batch_size
        )
        self._classifiers[bundle.name, bundle.version] = classifier
        _log.info(
            "model offered",
            action="model_offered",
            model=bundle.name,
            version=bundle.version,
            engine=classifier.engine,
        )

    def step(self) -> bool:
        """Score one job; False if none waits."""
        self._queue.return_expired(max_attempts=self._config.scoring.max_attempts)
        with self._queue.next_job(self._turns) as job:
            if job is not None:
                self._work_on(job)
        return job is not None

    def _work_on(self, job: ClaimedJob) -> None:
        failpoint("score.after_claim")
        log = _log.bind(job=job.id, study=short_uid(job.study_instance_uid))
        log.info("scoring", action="job_scoring", images=len(job.inputs), attempt=job.attempts)
        try:
            with self._queue.work(job), self._guard.watch(job):
                outcome = self._predict(job)
                with waiting_for_the_disk():
                    failpoint("score.after_predict")
                    path = self._save(job, outcome)
                failpoint("score.after_store")
            prediction = outcome.prediction

            def write(connection: Connection) -> None:
                settle_predicted(
                    connection, job, prediction, prediction_path=path, now=self._clock()
                )
                failpoint("score.before_commit")

            self._queue.settle(write)
            failpoint("score.after_commit")
            self._audit_scored(job, analysed=not prediction.not_analysed)
            log.info(
                "scored",
                action="job_scored",
                findings=len(prediction.findings),
                not_analysed=prediction.not_analysed,
            )
        except Transient:
            raise
        except Exception as error:  # noqa: BLE001 - a job must not take the stage down with it
            self._settle_error(job, error)

    def _audit_scored(self, job: ClaimedJob, *, analysed: bool) -> None:
        path = self._config.store_dir / job.inputs[0].path
        self._audit.record(
            AuditEvent.STUDY_SCORED,
            study=StudyPart.of_file(path, count=len(job.inputs)),
            job=job.id,
            model=job.model,
            version=job.model_version,
            analysed=analysed,
        )

    def _predict(self, job: ClaimedJob) -> Outcome:
        classifier = self._classifiers.get((job.model, job.model_version))
        if classifier is None:
            raise ModelError(
                f"model {job.model} {job.model_version} is not installed at this scorer; put its "
                "folder into models/, then `jobs retry`"
            )
        if len({item.identity_digest for item in job.inputs}) > 1:
            raise IdentityConflict(
                "the images to score carry different identities (Patient ID, Issuer of Patient "
                "ID, birth date); correct them at the source and send again"
            )
        paths = [self._config.store_dir / item.path for item in job.inputs]
        mode: OutOfScope = "mark" if job.out_of_scope == "mark" else "refuse"
        return score_files(classifier.bundle, classifier, paths, out_of_scope=mode)

    def _save(self, job: ClaimedJob, outcome: Outcome) -> str:
        relative = f"predictions/{job.id}-{job.token}.npz"
        path = self._config.store_dir / relative
        save_prediction(path, outcome.prediction, outcome.arrays)
        return relative

    def _settle_error(self, job: ClaimedJob, error: Exception) -> None:
        """Bad input fails, what a person must mend is parked, the unexpected gets one more try."""
        now = self._clock()
        known = str(error) if isinstance(error, NodeError) else f"unexpected {_described(error)}"
        _log.error("job not scored", action="job_not_scored", job=job.id, error=known)

        def write(connection: Connection) -> None:
            if isinstance(error, BadInput):
                settle_failed(connection, job, error=known, now=now)
            elif isinstance(error, Permanent) or job.attempts >= self._config.scoring.max_attempts:
                settle_parked(connection, job, error=known, now=now)
            else:
                decision = decide_retry(
                    RetryPolicy(),
                    attempts=job.attempts,
                    first_attempt_at=now,
                    now=now,
                    jitter=random.random(),
                )
                assert not isinstance(decision, GiveUp), "the first attempt is only now"
                settle_retry(connection, job, error=known, run_after=decision.when, now=now)

        self._queue.settle(write)


def _described(error: Exception) -> str:
    """The error's type and place; its text may hold patient data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {trace.tb_frame.f_code.co_name}" if trace is not None else ""
    return f"{type(error).__name__}{place}"
