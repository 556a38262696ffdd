"""Deliveries that are sent and not confirmed yet; storage commitment in both roles"""

import sqlalchemy as sa
from alembic import op

# As in 0001, with the count of what is sent and not confirmed.
JOB_OVERVIEW = """
CREATE VIEW job_overview AS
SELECT j.id AS job_id, j.study_instance_uid, j.revision, j.route, j.model, j.model_version,
       j.state, j.stage, j.reason, j.priority, j.attempts,
       (SELECT f.meaning FROM findings f WHERE f.job_id = j.id AND f.position = 0) AS finding,
       (SELECT f.probability FROM findings f WHERE f.job_id = j.id AND f.position = 0)
           AS probability,
       (SELECT f.threshold FROM findings f WHERE f.job_id = j.id AND f.position = 0)
           AS threshold,
       (SELECT count(*) FROM job_inputs i WHERE i.job_id = j.id) AS images,
       (SELECT count(*) FROM results r WHERE r.job_id = j.id) AS results,
       (SELECT count(*) FROM deliveries d WHERE d.job_id = j.id AND d.state = 'delivered')
           AS delivered,
       (SELECT count(*) FROM deliveries d WHERE d.job_id = j.id AND d.state = 'pending')
           AS pending,
       (SELECT count(*) FROM deliveries d WHERE d.job_id = j.id AND d.state = 'sent') AS sent,
       (SELECT count(*) FROM deliveries d WHERE d.job_id = j.id AND d.state = 'parked') AS parked,
       j.received_at, j.completed_at, j.scored_at, j.delivered_at
FROM jobs j
"""

revision = "0002_confirmation"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP VIEW job_overview")  # SQLite alters a table by copying it: no view may look on
    with op.batch_alter_table("deliveries") as batch_op:
        batch_op.add_column(sa.Column("sent_at", sa.DateTime(), nullable=True))
        batch_op.add_column(sa.Column("transaction_uid", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("asked", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("denials", sa.Integer(), nullable=False, server_default="0"))
        batch_op.drop_constraint(op.f("ck_deliveries_state"), type_="check")
        batch_op.create_check_constraint(
            op.f("ck_deliveries_state"), "state IN ('pending', 'sent', 'delivered', 'parked')"
        )
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("requested_at", sa.DateTime(), nullable=False),
        sa.Column("answered_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitments")),
    )
    op.create_table(
        "commitment_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("committed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("run_after", sa.DateTime(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("answered_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'answered', 'parked')", name=op.f("ck_commitment_requests_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_requests")),
        sa.UniqueConstraint("name", name=op.f("uq_commitment_requests_name")),
    )
    op.create_index(
        op.f("ix_commitment_requests_state_run_after"),
        "commitment_requests",
        ["state", "run_after"],
        unique=False,
    )
    op.execute(JOB_OVERVIEW)
