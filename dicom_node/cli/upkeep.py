"""`prune` and `fsck`: what goes when its time has come, and whether database and files agree."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from dicom_node.cli.audit import record_person
from dicom_node.cli.options import ConfigFile, Home, Json, fail, out, print_json, read_config
from dicom_node.errors import Transient
from dicom_node.node import prepare, retention_policy
from dicom_node.observe.audit import AuditEvent
from dicom_node.observe.logs import configure_logging
from dicom_node.process import utc_now
from dicom_node.store.fsck import Problem, Survey, examine
from dicom_node.store.fsck_files import check_instances, check_orphans, check_quarantine
from dicom_node.store.fsck_leftovers import check_half_written, check_inbox
from dicom_node.store.fsck_outbox import check_deliveries, check_outbox
from dicom_node.store.fsck_results import check_predictions, check_results
from dicom_node.store.fsck_rows import check_jobs, check_leases, check_unsettled
from dicom_node.store.pruning import Pruner

CHECKS = (
    check_instances,
    check_results,
    check_predictions,
    check_quarantine,
    check_orphans,
    check_jobs,
    check_deliveries,
    check_outbox,  # before what settles jobs whose deliveries are all settled
    check_unsettled,
    check_leases,
    check_half_written,
    check_inbox,
)
EXIT_FOUND, EXIT_NEEDS_PERSON = 1, 2
SHOWN = 10_000


def prune(
    home: Home = None,
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the files whose time has come by `retention`; the node does so by itself."""
    settings = read_config(home, config)
    configure_logging(settings.log, "prune")
    database = prepare(settings)

    def removed(study_instance_uid: str, _size: int) -> None:
        record_person(settings, AuditEvent.DATA_DELETED, study_instance_uid, action="prune")

    policy = retention_policy(settings)
    pruner = Pruner(database, settings.store_dir, policy, utc_now, on_removed=removed)
    if dry_run:
        early = [study for study in pruner.below_floor() if study not in pruner.due(SHOWN)]
        due = {
            "studies_by_age": len(pruner.due(SHOWN)),
            "quarantined_files": pruner.due_quarantine(),
            "oldest_studies_below_the_floor": len(early),
        }
        if as_json:
            print_json(due)
        else:
            out.print("\n".join(f"{key.replace('_', ' ')}: {count}" for key, count in due.items()))
        return
    studies = quarantined = freed = 0
    while step := pruner.step():
        studies += step.studies
        quarantined += step.quarantined
        freed += step.freed_bytes
    if as_json:
        print_json({"studies": studies, "quarantined": quarantined, "freed_bytes": freed})
    else:
        out.print(f"{studies} studies, {quarantined} quarantined files, {freed / 1e6:.1f} MB freed")


def fsck(
    home: Home = None,
    config: ConfigFile = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended without losing bytes.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every image and compare its digest, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare the database with the files. Exit code 0: they agree; 1: differences that are
    repaired, or will be by --repair; 2: a person is needed."""
    settings = read_config(home, config)
    try:
        survey = Survey(
            prepare(settings),
            settings.store_dir,
            settings.inbox_dir,
            settings.commitment_dir,
            utc_now(),
            settings.scoring.max_attempts,
            deep,
        )
        found = examine(survey, CHECKS, repair=repair)
    except Transient as error:
        fail(str(error), EXIT_NEEDS_PERSON)
    if as_json:
        print_json([_plain(problem) for problem in found])
    else:
        out.print(_table(found) if found else "database and files agree")
        if found:
            out.print(_summary(found))
    if any(problem.needs_person for problem in found):
        raise typer.Exit(EXIT_NEEDS_PERSON)
    if found:
        raise typer.Exit(EXIT_FOUND)


def _summary(found: list[Problem]) -> str:
    person = sum(problem.needs_person for problem in found)
    repaired = sum(problem.repaired is not None for problem in found)
    left = len(found) - person - repaired
    return f"{repaired} repaired, {left} left for --repair, {person} left for a person"


def _plain(problem: Problem) -> dict[str, object]:
    return {
        "kind": problem.kind,
        "what": problem.what,
        "path": problem.path,
        "jobs": list(problem.jobs),
        "remedy": problem.remedy,
        "repaired": problem.repaired,
        "needs_person": problem.needs_person,
    }


def _table(found: list[Problem]) -> Table:
    table = Table("problem", "file", "jobs", "what to do", box=None)
    for problem in found:
        done = f"[green]{problem.repaired}[/]" if problem.repaired else problem.remedy
        style = "bold red" if problem.needs_person else "yellow"
        table.add_row(
            f"[{style}]{problem.what}[/]",
            problem.path or "",
            ", ".join(map(str, problem.jobs)),
            done,
        )
    return table


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.command()(prune)
    root.command()(fsck)
