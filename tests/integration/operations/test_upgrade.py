"""A database of every released schema comes to the newest one with all that it held."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from dicom_node.domain.jobs import JobState
from dicom_node.store import overview
from dicom_node.store.database import MIGRATIONS, Connection, Database, open_database
from dicom_node.store.deliveries import claim_deliveries
from dicom_node.store.recovery import retry_job
from dicom_node.store.tables import metadata

REVISIONS = [item.revision for item in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]
RELEASED = {"0001"}
"""Schemas that somebody may have: those of released versions."""

T = "'2026-01-02 03:04:05.000006'"
A, B = "a" * 64, "b" * 64
# Written in SQL, as the version of that schema left it: today's code would write today's columns.
CONTENT_OF_0001 = [
    f"""INSERT INTO studies (study_instance_uid, revision, state, first_received_at,
        last_received_at, completed_at, completed_because, calling_ae_title) VALUES
        ('1.2.1', 2, 'routed', {T}, {T}, {T}, 'quiet', 'PACS'),
        ('1.2.2', 1, 'receiving', {T}, {T}, NULL, NULL, 'PACS')""",
    f"INSERT INTO associations VALUES (1, 'a-1', {T}), (2, 'a-2', NULL)",
    f"""INSERT INTO instances (study_id, revision, series_instance_uid, sop_instance_uid,
        sop_class_uid, transfer_syntax_uid, digest, identity_digest, has_patient_id, role, header,
        path, size, association, received_at, conflicts_with) VALUES
        (1, 1, '1.2.1.1', '1.2.1.1.1', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '{A}',
         '{B}', TRUE, 'image', '{{"Modality": "CR", "StudyDescription": "Thorax"}}',
         'instances/aa/aa/a.dcm', 5000000000, 'a-1', {T}, NULL),
        (1, 2, '1.2.1.1', '1.2.1.1.1', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '{B}',
         '{B}', FALSE, 'image', '{{"Modality": "CR"}}', 'instances/bb/bb/b.dcm', 1, 'a-1', {T}, 1),
        (2, 1, '1.2.2.1', '1.2.2.1.1', '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2', '{A}',
         '{B}', TRUE, 'image', '{{}}', 'instances/aa/aa/a.dcm', 9, 'a-2', {T}, NULL)""",
    f"""INSERT INTO quarantine (path, reason, association, calling_ae_title, received_at) VALUES
        ('quarantine/a-1-000003.dcm', 'unreadable', 'a-1', 'PACS', {T})""",
    """INSERT INTO decisions (study_id, revision, route, series_instance_uid, sop_instance_uid,
        accepted, reason) VALUES (1, 1, 'cxr', '1.2.1.1', '1.2.1.1.1', TRUE, 'all fit'),
        (1, 1, 'ct', '1.2.1.1', NULL, FALSE, 'Modality is CR, wanted CT')""",
    f"""INSERT INTO models VALUES
        ('cxr', '1.0.0', 'offered', NULL, '{A}', '{{"name": "cxr"}}', {T}),
        ('bad', '', 'refused', 'a file is missing', NULL, '{{}}', {T})""",
    *(
        f"""INSERT INTO jobs (study_id, study_instance_uid, revision, route, model, model_version,
        input_digest, state, stage, reason, priority, out_of_scope, result_kinds, report_refusals,
        destinations, attempts, run_after, received_at, completed_at, created_at, scored_at)
        VALUES (1, '1.2.1', {number}, 'cxr', 'cxr', '1.0.{number}', '{A}', '{state}', '{stage}',
        {reason}, 5, 'refuse', '["SR"]', TRUE, '["pacs"]', 1, {T}, {T}, {T}, {T}, {T})"""
        for number, (state, stage, reason) in enumerate(
            [
                ("scored", "done", "NULL"),
                ("queued", "score", "NULL"),
                ("parked", "done", "'the destination refused'"),
                ("delivered", "done", "NULL"),
                ("refused", "done", "'age'"),
                ("failed", "score", "'no pixels'"),
            ]
        )
    ),
    "INSERT INTO job_inputs VALUES (1, 0, 1), (2, 0, 1)",
    f"""INSERT INTO attempts (job_id, stage, worker, started_at, ended_at, outcome, error) VALUES
        (1, 'score', 'host:1', {T}, {T}, 'done', NULL)""",
    """INSERT INTO findings (job_id, position, code, scheme, meaning, probability, threshold,
        present, level, sop_instance_uid, frame_number, box) VALUES (1, 0, '233604007', 'SCT',
        'Pneumonia', 0.75, 0.5, TRUE, 'image', '1.2.1.1.1', NULL, '[1.0, 2.0, 3.0, 4.0]')""",
    f"""INSERT INTO results (job_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid,
        path, preview_path, sha256, created_at) VALUES
        (1, 'SR', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.1', '2.25.2', 'results/1/SR.dcm', NULL,
         '{A}', {T}), (3, 'SR', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.3', '2.25.4',
         'results/3/SR.dcm', NULL, '{B}', {T})""",
    f"""INSERT INTO deliveries (job_id, result_id, destination, state, attempts, first_attempt_at,
        run_after, last_error, delivered_at) VALUES
        (1, 1, 'pacs', 'pending', 3, {T}, {T}, 'refused the connection', NULL),
        (1, 1, 'other', 'delivered', 1, {T}, {T}, NULL, {T}),
        (3, 2, 'pacs', 'parked', 9, {T}, {T}, 'gave up', NULL)""",
    f"""INSERT INTO events (at, study_id, job_id, action, detail) VALUES
        ({T}, 1, 1, 'job_scored', NULL), ({T}, 1, NULL, 'study_complete', 'revision 1: quiet')""",
]


def migrate(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def everything(connection: Connection, columns: dict[str, list[str]]) -> dict[str, Any]:
    return {
        table: sorted(
            map(str, connection.execute(text(f"SELECT {', '.join(names)} FROM {table}")).all())
        )
        for table, names in columns.items()
    }


def columns_now(connection: Connection) -> dict[str, list[str]]:
    inspector = inspect(connection)
    return {
        table: [column["name"] for column in inspector.get_columns(table)]
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


@pytest.fixture
def old(database_url: str) -> Iterator[Database]:
    """A database of the first released schema, with rows in every table."""
    opened = open_database(database_url)
    migrate(opened, "0001")
    with opened.begin() as connection:
        for statement in CONTENT_OF_0001:
            connection.exec_driver_sql(statement)
    yield opened
    opened.close()


def test_released_schemas_are_still_there() -> None:
    assert set(REVISIONS) >= RELEASED


@pytest.mark.parametrize("way", REVISIONS)
def test_every_row_of_an_old_schema_is_there_after_the_upgrade(old: Database, way: str) -> None:
    with old.read() as connection:
        columns = columns_now(connection)
        before = everything(connection, columns)
    assert all(before.values()), "rows in every table, or the test proves nothing"
    migrate(old, way)
    old.upgrade()
    with old.read() as connection:
        assert everything(connection, columns) == before
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    assert old.schema_state()[0] == REVISIONS[-1]


def test_the_work_of_an_old_schema_goes_on_after_the_upgrade(old: Database) -> None:
    old.upgrade()
    now = datetime(2026, 2, 1, tzinfo=UTC)
    with old.read() as connection:
        rows = overview.job_rows(connection, store_dir=Path("/s"))
        states = {row["job_id"]: row["state"] for row in rows}
        detail = overview.job_detail(connection, 1, store_dir=Path("/s"))
        study = overview.study_detail(connection, "1.2.1")
        view = connection.execute(text("SELECT job_id, delivered, pending FROM job_overview"))
        assert (1, 1, 1) in [tuple(row) for row in view]
    assert states == {1: "scored", 2: "queued", 3: "parked", 4: "delivered", 5: "refused",
                      6: "failed"}  # fmt: skip
    assert detail is not None
    assert detail["findings"][0]["probability"] == 0.75
    assert study is not None
    assert study["series_list"][0]["conflicts"] == 1
    with old.begin() as connection:
        claimed = claim_deliveries(
            connection, destination="pacs", token="t", lease=timedelta(minutes=1), limit=9, now=now
        )
        assert [(item.job_id, item.path) for item in claimed] == [(1, "results/1/SR.dcm")]
        assert retry_job(connection, 3, now=now) is JobState.SCORED
