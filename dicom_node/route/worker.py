"""The route stage: complete studies become jobs, or a recorded reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from dicom_node.domain.jobs import JobStage, JobState
from dicom_node.domain.study import input_digest
from dicom_node.errors import short_uid
from dicom_node.failpoint import failpoint
from dicom_node.route.rules import Route, Routes, Selection, select
from dicom_node.store.database import Connection, Database
from dicom_node.store.identity import identity_conflict
from dicom_node.store.models import not_offered, offered_version
from dicom_node.store.routing import (
    CompleteStudy,
    Decision,
    NewJob,
    StoredInstance,
    add_job,
    mark_routed,
    next_complete_study,
)

SENDER = "sender"
NO_PATIENT_ID = "PatientID (0010,0020) is missing or empty: the results carry none either"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Router:
    """Applies the rules to one complete study at a time.

    Attributes
    ----------
    destinations
        Name to AE title, to find the destination that is the sender.
    send_to
        Destinations of routes that name none.
    """

    database: Database
    routes: Routes
    destinations: Mapping[str, str]
    send_to: Sequence[str]
    clock: Callable[[], datetime]

    def step(self) -> bool:
        """Route the study that has waited longest; False if there is none."""
        with self.database.begin() as connection:
            study = next_complete_study(connection)
            if study is None:
                return False
            selections, decisions = select(self.routes, study.instances)
            for selection in selections:
                decisions += self._queue(connection, study, selection)
            if not selections and any(item.role == "image" for item in study.instances):
                self._refuse(connection, study, decisions)
            mark_routed(connection, study, decisions)
            failpoint("route.before_commit")
        failpoint("route.after_commit")
        _log.info(
            "study routed",
            action="study_routed",
            study=short_uid(study.study_instance_uid),
            revision=study.revision,
            jobs=len(selections),
        )
        return True

    def _queue(
        self, connection: Connection, study: CompleteStudy, selection: Selection
    ) -> list[Decision]:
        route = selection.route
        version = offered_version(connection, route.model, route.model_version)
        conflict = identity_conflict(connection, study.id)
        nameless = not all(item.has_patient_id for item in selection.instances)
        state, stage, reason = JobState.QUEUED, JobStage.SCORE, None
        if conflict:
            state, reason = JobState.PARKED, conflict
        elif nameless and route.require_patient_id:
            state = JobState.PARKED
            reason = "PatientID (0010,0020) is missing or empty and the route requires one"
        elif gone := sum(item.pruned for item in selection.instances):
            state = JobState.PARKED
            reason = (
                f"{gone} of its images were pruned before this revision came; send the whole "
                "study again, then `jobs retry`"
            )
        elif version is None:
            stage = JobStage.WAIT_FOR_MODEL
            reason = not_offered(route.model, route.model_version)
        destinations, said = self._destinations(study, route, selection)
        add_job(
            connection,
            NewJob(
                study_id=study.id,
                study_instance_uid=study.study_instance_uid,
                revision=study.revision,
                route=route.name,
                model=route.model,
                model_version=version or route.model_version or "",
                input_digest=_digest(selection.instances),
                instance_ids=tuple(item.id for item in selection.instances),
                priority=route.priority,
                out_of_scope=route.out_of_scope,
                result_kinds=route.results,
                report_refusals=route.report_refusals,
                destinations=destinations,
                received_at=study.last_received_at,
                completed_at=study.completed_at,
            ),
            now=self.clock(),
            state=state,
            stage=stage,
            reason=reason,
            notes=[NO_PATIENT_ID] if nameless else [],
        )
        return said

    def _destinations(
        self, study: CompleteStudy, route: Route, selection: Selection
    ) -> tuple[tuple[str, ...], list[Decision]]:
        names, said = [], []
        for name in route.send_to if route.send_to is not None else self.send_to:
            if name != SENDER:
                names.append(name)
                continue
            found = [
                key for key, title in self.destinations.items() if title == study.calling_ae_title
            ]
            names += found[:1]
            if not found:
                reason = "no destination has the sender's AE title; results stay in the store"
                uid = selection.instances[0].series_instance_uid
                said.append(Decision(route.name, uid, None, accepted=True, reason=reason))
        return tuple(dict.fromkeys(names)), said

    def _refuse(
        self, connection: Connection, study: CompleteStudy, decisions: Sequence[Decision]
    ) -> None:
        """Record a study that no route wants as a refused job, where people look for it."""
        reasons = list(dict.fromkeys(f"{item.route}: {item.reason}" for item in decisions))
        images = [item for item in study.instances if item.role == "image"]
        add_job(
            connection,
            NewJob(
                study_id=study.id,
                study_instance_uid=study.study_instance_uid,
                revision=study.revision,
                route="",
                model="",
                model_version="",
                input_digest=_digest(images),
                instance_ids=tuple(item.id for item in images),
                priority=100,
                out_of_scope="refuse",
                result_kinds=(),
                report_refusals=False,
                destinations=(),
                received_at=study.last_received_at,
                completed_at=study.completed_at,
            ),
            now=self.clock(),
            state=JobState.REFUSED,
            stage=JobStage.DONE,
            reason="no route takes it: " + "; ".join(reasons),
        )


def _digest(instances: Sequence[StoredInstance]) -> str:
    return input_digest((item.sop_instance_uid, item.digest) for item in instances)
