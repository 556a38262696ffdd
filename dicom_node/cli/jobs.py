"""`jobs list`, `jobs show`, `jobs retry`, `jobs waive`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from dicom_node.cli.audit import record_person
from dicom_node.cli.options import (
    EXIT_FAILED,
    ConfigFile,
    Home,
    Json,
    fail,
    out,
    print_json,
    read_config,
)
from dicom_node.domain.jobs import InvalidTransition, JobState
from dicom_node.node import prepare
from dicom_node.observe.audit import AuditEvent
from dicom_node.process import utc_now
from dicom_node.store.overview import job_detail, job_rows
from dicom_node.store.recovery import retry_job
from dicom_node.store.retention import waive_job

app = typer.Typer(help="The queue: what was scored, what was not and why.", no_args_is_help=True)

STATE_STYLE = {
    "delivered": "green",
    "scored": "green",
    "running": "cyan",
    "refused": "yellow",
    "parked": "bold red",
    "failed": "bold red",
}


def finding_text(job: Mapping[str, Any]) -> str:
    """One line for the study-level finding: name, probability, threshold and verdict."""
    if not job["findings"]:
        return ""
    item = job["findings"][0]
    verdict = "PRESENT" if item["present"] else "absent"
    return (
        f"{item['meaning']} {item['probability']:.1%} (threshold {item['threshold']:.1%}) {verdict}"
    )


@app.command("list")
def list_jobs(
    home: Home = None,
    config: ConfigFile = None,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many, newest first.")] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    settings = read_config(home, config)
    with prepare(settings).read() as connection:
        rows = job_rows(
            connection,
            store_dir=settings.store_dir,
            state=state.value if state else None,
            limit=limit,
        )
    if as_json:
        print_json(rows)
        return
    table = Table("job", "state", "model", "finding", "received", "reason", box=None)
    for row in rows:
        style = STATE_STYLE.get(row["state"], "")
        table.add_row(
            str(row["job_id"]),
            f"[{style}]{row['state']}[/]" if style else row["state"],
            f"{row['model'] or '-'} {row['model_version'] or ''}",
            finding_text(row),
            row["received_at"][:19],
            "; ".join(filter(None, [row["reason"], *row["marks"]])),
        )
    out.print(table if rows else "no jobs")


@app.command()
def show(
    job_id: Annotated[int, typer.Argument(help="Number from `jobs list`.")],
    home: Home = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show one job with its results, deliveries, attempts and events."""
    settings = read_config(home, config)
    with prepare(settings).read() as connection:
        job = job_detail(connection, job_id, store_dir=settings.store_dir)
    if job is None:
        fail(f"no job {job_id}; see `dicom-node jobs list`")
    record_person(settings, AuditEvent.RESULTS_VIEWED, job["study_instance_uid"], job=job_id)
    if as_json:
        print_json(job)
        return
    for key in ("job_id", "state", "reason", "study_instance_uid", "revision", "route", "model",
                "model_version", "engine", "received_at", "scored_at", "delivered_at", "waived_at",
                "waived_because", "pruned_at"):  # fmt: skip
        out.print(
            f"[bold]{key.replace('_', ' '):>20}[/]  {job[key] if job[key] is not None else '-'}"
        )
    for mark in job["marks"]:
        out.print(f"[bold yellow]{'mark':>20}[/]  {mark}")
    _print_section("finding", [_finding_line(item) for item in job["findings"]])
    _print_section("result", [f"{item['kind']}  {item['path']}" for item in job["results"]])
    _print_section("delivery", [_delivery_line(item) for item in job["deliveries"]])
    _print_section("attempt", [_attempt_line(item) for item in job["attempt_log"]])
    _print_section("event", [_event_line(item) for item in job["events"]])


def _print_section(name: str, lines: list[str]) -> None:
    for line in lines:
        out.print(f"[bold]{name:>20}[/]  {line}", highlight=False)


def _finding_line(item: Mapping[str, Any]) -> str:
    verdict = "PRESENT" if item["present"] else "absent"
    return (
        f"{item['meaning']} {item['probability']:.1%} (threshold {item['threshold']:.1%}) "
        f"{verdict}, {item['level']}"
    )


def _delivery_line(item: Mapping[str, Any]) -> str:
    error = f": {item['last_error']}" if item["last_error"] else ""
    asked = f", asked {item['confirmation_requests']} times" if item["state"] == "sent" else ""
    return f"{item['destination']} {item['state']} after {item['attempts']} attempts{asked}{error}"


def _attempt_line(item: Mapping[str, Any]) -> str:
    error = f": {item['error']}" if item["error"] else ""
    took = f" after {item['seconds']:.1f} s" if item["seconds"] is not None else ""
    memory = item["peak_memory_bytes"]
    most = f", most memory {memory / 1e9:.2f} GB" if memory else ""
    how = f"{item['outcome'] or 'running'}{took}{error}{most}"
    return f"{item['started_at']} {item['stage']} by {item['worker']}: {how}"


def _event_line(item: Mapping[str, Any]) -> str:
    return f"{item['at']} {item['action']} {item['detail'] or ''}"


@app.command()
def retry(
    job_ids: Annotated[list[int], typer.Argument(help="Numbers from `jobs list`.")],
    home: Home = None,
    config: ConfigFile = None,
) -> None:
    """Bring parked, failed or refused jobs back: to delivery if results exist, else to scoring."""
    settings = read_config(home, config)
    database = prepare(settings)
    failed = False
    for job_id in job_ids:
        try:
            with database.begin() as connection:
                state = retry_job(connection, job_id, now=utc_now())
        except InvalidTransition as error:
            out.print(f"job {job_id}: {error}")
            failed = True
            continue
        out.print(f"job {job_id}: {state.value if state else 'no such job'}")
        failed = failed or state is None
        if state is not None:
            record_person(settings, AuditEvent.DECISION_BY_PERSON, None, job=job_id, action="retry")
    if failed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def waive(
    job_id: Annotated[int, typer.Argument(help="Number from `jobs list`.")],
    why: Annotated[str, typer.Option(help="For the record; no patient data.")],
    home: Home = None,
    config: ConfigFile = None,
) -> None:
    """Let retention remove a job's files although no destination has confirmed its results."""
    settings = read_config(home, config)
    try:
        with prepare(settings).begin() as connection:
            found = waive_job(connection, job_id, why=why, now=utc_now())
    except InvalidTransition as error:
        fail(f"job {job_id}: {error}")
    if not found:
        fail(f"no job {job_id}; see `dicom-node jobs list`")
    record_person(settings, AuditEvent.DECISION_BY_PERSON, None, job=job_id, action="waive")
    out.print(f"job {job_id}: waived")


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.add_typer(app, name="jobs")
