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
from dicom_node.score.bundle import Bundle, find_bundles
from dicom_node.score.catalog import describe
from dicom_node.score.engine import Classifier, open_classifier
from dicom_node.score.outcome import Outcome, OutOfScope
from dicom_node.score.study import score_files
from dicom_node.store.database import Database
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
from dicom_node.store.recovery import return_expired

_log = structlog.get_logger()


class Scorer:
    """Holds the models warm and scores one job at a time."""

    def __init__(
        self,
        database: Database,
        config: NodeConfig,
        *,
        worker: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._config = config
        self._clock = clock
        self._queue = LeasedQueue(
            database, JobStage.SCORE, worker=worker, lease=config.scoring.lease, clock=clock
        )
        self._classifiers: dict[tuple[str, str], Classifier] = {}

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
        now = self._clock()
        with self._database.begin() as connection:
            return_expired(connection, max_attempts=self._config.scoring.max_attempts, now=now)
        job = self._queue.claim()
        if job is None:
            return False
        log = _log.bind(job=job.id, study=short_uid(job.study_instance_uid))
        log.info("scoring", action="job_scoring", images=len(job.inputs), attempt=job.attempts)
        try:
            with self._queue.hold(job):
                outcome = self._predict(job)
                path = self._save(job, outcome)
            prediction = outcome.prediction
            with self._database.begin() as connection:
                settle_predicted(
                    connection, job, prediction, prediction_path=path, now=self._clock()
                )
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
        return True

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
        with self._database.begin() as connection:
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


def _described(error: Exception) -> str:
    """The error's type and place; its text may hold patient data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {trace.tb_frame.f_code.co_name}" if trace is not None else ""
    return f"{type(error).__name__}{place}"
