"""Every table of the node. Alembic's migrations build the same schema; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.store.columns import DIGEST, NAMING, UID, UtcDateTime, one_of, pruned

metadata = MetaData(naming_convention=NAMING)

# A study as it is being received: `revision` counts the sets of images it was complete with.
studies = Table(
    "studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_instance_uid", UID, nullable=False, unique=True),
    Column("revision", Integer, nullable=False, default=1),
    Column("state", String(16), nullable=False),
    Column("first_received_at", UtcDateTime, nullable=False),
    Column("last_received_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    Column("completed_because", Text),
    Column("calling_ae_title", String(16), nullable=False),
    CheckConstraint(one_of("state", ["receiving", "complete", "routed"]), name="state"),
    Index(None, "state"),
)

# An association that brought images of a study; `ended_at` is the hint that its sender is done.
associations = Table(
    "associations",
    metadata,
    Column("study_id", ForeignKey("studies.id"), primary_key=True),
    Column("association", String(80), primary_key=True),
    Column("ended_at", UtcDateTime),
    Index(None, "association"),
)

# Instances as sent. Same UID and same bytes: one row. Same UID, other bytes: a row of its own with
# `conflicts_with` set, kept but never scored.
instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("sop_instance_uid", UID, nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("identity_digest", DIGEST, nullable=False),
    Column("has_patient_id", Boolean, nullable=False),
    Column("role", String(16), nullable=False),
    Column("header", JSON, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("association", String(80), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("conflicts_with", ForeignKey("instances.id")),
    Column("name_digests", Text),
    *pruned(),
    UniqueConstraint("sop_instance_uid", "digest"),
    CheckConstraint(one_of("role", ["image", "result"]), name="role"),
    Index(None, "study_id"),
)

# Files that could not be recorded: no study to hang them on. Kept, with the reason.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False, unique=True),
    Column("reason", Text, nullable=False),
    Column("association", String(80), nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    *pruned(),
)

# What the rules said to each image or series of a revision; every "no" has its reason.
decisions = Table(
    "decisions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("route", String(64), nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("sop_instance_uid", UID),
    Column("accepted", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Index(None, "study_id"),
)

# Models that a scorer has verified and offers, or has refused and why.
models = Table(
    "models",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("weights_sha256", DIGEST),
    Column("description", JSON, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    CheckConstraint(one_of("state", ["offered", "refused"]), name="state"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("studies.id"), nullable=False),
    Column("study_instance_uid", UID, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("route", String(64), nullable=False),
    Column("model", String(64), nullable=False),
    Column("model_version", String(32), nullable=False),
    Column("input_digest", DIGEST, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("reason", Text),
    Column("priority", Integer, nullable=False),
    Column("out_of_scope", String(8), nullable=False),
    Column("result_kinds", JSON, nullable=False),
    Column("report_refusals", Boolean, nullable=False),
    Column("destinations", JSON, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("run_after", UtcDateTime, nullable=False),
    Column("lease_token", String(36)),
    Column("lease_until", UtcDateTime),
    Column("worker", String(80)),
    Column("engine", Text),
    Column("marks", JSON),
    Column("notes", JSON),
    Column("prediction_path", Text),
    Column("predecessor_id", ForeignKey("jobs.id")),
    Column("received_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("scored_at", UtcDateTime),
    Column("delivered_at", UtcDateTime),
    Column("waived_at", UtcDateTime),
    Column("waived_because", Text),
    *pruned(),
    UniqueConstraint("study_instance_uid", "input_digest", "model", "model_version"),
    CheckConstraint(one_of("state", JobState), name="state"),
    CheckConstraint(one_of("stage", JobStage), name="stage"),
    Index(None, "state", "stage", "run_after"),
    Index(None, "study_id"),
)

job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("instance_id", ForeignKey("instances.id"), nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("worker", String(80), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("outcome", String(16)),
    Column("error", Text),
    Column("peak_memory_bytes", BigInteger),
    Index(None, "job_id"),
)

findings = Table(
    "findings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("code", String(16), nullable=False),
    Column("scheme", String(16), nullable=False),
    Column("meaning", String(64), nullable=False),
    Column("probability", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("present", Boolean, nullable=False),
    Column("level", String(8), nullable=False),
    Column("sop_instance_uid", UID, nullable=False),
    Column("frame_number", Integer),
    Column("box", JSON),
    UniqueConstraint("job_id", "position"),
)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("sop_instance_uid", UID, nullable=False, unique=True),
    Column("series_instance_uid", UID, nullable=False),
    Column("path", Text, nullable=False),
    Column("preview_path", Text),
    Column("sha256", DIGEST, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("job_id", "kind"),
)

# The outbox: one row per object and destination.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("result_id", ForeignKey("results.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("first_attempt_at", UtcDateTime),
    Column("run_after", UtcDateTime, nullable=False),
    Column("lease_token", String(36)),
    Column("lease_until", UtcDateTime),
    Column("last_error", Text),
    Column("delivered_at", UtcDateTime),
    # `sent`: stored there by its C-STORE status, and not confirmed yet.
    Column("sent_at", UtcDateTime),
    Column("transaction_uid", UID),  # of the open storage commitment request
    Column("asked", Integer, nullable=False, default=0, server_default="0"),
    Column("denials", Integer, nullable=False, default=0, server_default="0"),
    UniqueConstraint("result_id", "destination"),
    CheckConstraint(one_of("state", ["pending", "sent", "delivered", "parked"]), name="state"),
    Index(None, "state", "destination", "run_after"),
    Index(None, "job_id"),
)

# Storage commitment that we asked a destination for; its answer names the transaction.
commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", UID, primary_key=True),
    Column("destination", String(64), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
)

# Storage commitment that a sender asked us for, with what it was or shall be told.
commitment_requests = Table(
    "commitment_requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(80), nullable=False, unique=True),
    Column("calling_ae_title", String(16), nullable=False),
    Column("transaction_uid", UID, nullable=False),
    Column("committed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("run_after", UtcDateTime, nullable=False),
    Column("last_error", Text),
    Column("received_at", UtcDateTime, nullable=False),
    Column("answered_at", UtcDateTime),
    CheckConstraint(one_of("state", ["pending", "answered", "parked"]), name="state"),
    Index(None, "state", "run_after"),
)

# What happened, in order; appended in the transaction of the change it tells of.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("study_id", ForeignKey("studies.id")),
    Column("job_id", ForeignKey("jobs.id")),
    Column("action", String(32), nullable=False),
    Column("detail", Text),
    Index(None, "job_id"),
    Index(None, "study_id"),
)
