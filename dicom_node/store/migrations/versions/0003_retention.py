"""What retention gave up, what a person waived, what an attempt used, and names to compare"""

import sqlalchemy as sa
from alembic import op

revision = "0003_retention"
down_revision = "0002_confirmation"
branch_labels = None
depends_on = None

PRUNED = ("instances", "quarantine", "jobs")


def upgrade() -> None:
    for table in PRUNED:
        op.add_column(table, sa.Column("pruned_at", sa.DateTime(), nullable=True))
        op.add_column(table, sa.Column("pruned_bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("waived_at", sa.DateTime(), nullable=True))
    op.add_column("jobs", sa.Column("waived_because", sa.Text(), nullable=True))
    op.add_column("instances", sa.Column("name_digests", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True))
