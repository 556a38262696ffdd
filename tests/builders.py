"""A small study and its job, built through the store as the stages build them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dicom_node.domain.findings import Code, Finding, Level, ModelIdentity, Prediction
from dicom_node.domain.jobs import JobStage
from dicom_node.domain.study import InstanceRecord, Role
from dicom_node.store import jobs, outcomes, routing, studies
from dicom_node.store.database import Connection, Database

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEASE = timedelta(minutes=1)
BOTH_STAGES = (JobStage.SCORE, JobStage.REPORT)

IMAGE = InstanceRecord(
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.1",
    sop_instance_uid="1.2.3.1.1",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    digest="a" * 64,
    identity_digest="b" * 64,
    has_patient_id=True,
    role=Role.IMAGE,
    header={"Modality": "CR"},
    path="instances/aa/aa/a.dcm",
    size=1000,
    association="assoc-1",
    calling_ae_title="PACS",
    received_at=NOW,
)
PREDICTION = Prediction(
    model=ModelIdentity("cxr", "1.0.0", "maker", "c" * 64, "d" * 64, "e" * 64),
    findings=(
        Finding(
            code=Code("233604007", "SCT", "Pneumonia"),
            site=Code("39607008", "SCT", "Lung"),
            probability=0.75,
            threshold=0.5,
            level=Level.IMAGE,
            sop_instance_uid="1.2.3.1.1",
            instance_number=1,
            frame_number=None,
            rows=10,
            columns=20,
            box=(1.0, 2.0, 3.0, 4.0),
        ),
    ),
    key_images=(),
    not_analysed=None,
    marks=("outside intended use: age",),
    engine="test",
    source_sop_instance_uids=("1.2.3.1.1",),
)
RESULT = outcomes.NewResult(
    "SR", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.1", "2.25.2", "r/1", None, "f" * 64
)


def record(database: Database, instance: InstanceRecord) -> str:
    with database.begin() as connection:
        return studies.record_instance(connection, instance)


def complete_study(connection: Connection, *, now: datetime) -> routing.CompleteStudy:
    """The study that was open, as the rules get it."""
    for study in studies.open_studies(connection):
        assert studies.complete_study(connection, study, because="test", now=now)
    complete = routing.next_complete_study(connection)
    assert complete is not None
    return complete


def route(database: Database, *, now: datetime = NOW, digest: str = "1" * 64) -> int | None:
    """Complete the open study and queue one job for it."""
    with database.begin() as connection:
        complete = complete_study(connection, now=now)
        routing.mark_routed(connection, complete, [])
        return routing.add_job(connection, new_job(complete, digest), now=now)


def new_job(study: routing.CompleteStudy, digest: str) -> routing.NewJob:
    return routing.NewJob(
        study_id=study.id,
        study_instance_uid=study.study_instance_uid,
        revision=study.revision,
        route="cxr",
        model="cxr",
        model_version="1.0.0",
        input_digest=digest,
        instance_ids=tuple(item.id for item in study.instances),
        priority=50,
        out_of_scope="refuse",
        result_kinds=("SR", "SC"),
        report_refusals=True,
        destinations=("PACS", "ARCHIVE"),
        received_at=study.last_received_at,
        completed_at=study.completed_at,
    )


def claim(database: Database, *, token: str = "t", now: datetime = NOW) -> jobs.ClaimedJob | None:
    with database.begin() as connection:
        return jobs.claim_job(
            connection, stages=BOTH_STAGES, worker="w", token=token, lease=LEASE, now=now
        )


def scored_job(database: Database) -> int:
    """A job with one result, waiting for two deliveries."""
    record(database, IMAGE)
    job_id = route(database)
    assert job_id is not None
    held = claim(database)
    assert held is not None
    with database.begin() as connection:
        outcomes.settle_predicted(connection, held, PREDICTION, prediction_path="p", now=NOW)
    held = claim(database)
    assert held is not None
    assert held.stage is JobStage.REPORT
    with database.begin() as connection:
        outcomes.settle_reported(connection, held, [RESULT], not_analysed=False, now=NOW)
    return job_id
