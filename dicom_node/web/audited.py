"""Which requests the audit trail tells of: who looked at a result, took one along or decided."""

from __future__ import annotations

from typing import Final

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from dicom_node.config import NodeConfig
from dicom_node.errors import Transient
from dicom_node.observe.audit import Audit, AuditEvent, StudyPart, Who
from dicom_node.store.database import Database
from dicom_node.store.subjects import Subject, subject_of_job, subject_of_study

_VIEWED, _EXPORTED = AuditEvent.RESULTS_VIEWED, AuditEvent.RESULTS_EXPORTED
_DECIDED: Final = AuditEvent.DECISION_BY_PERSON

_SHOWN_ON_PAGES: Final = "PNG"
# By the pattern of the path. Lists, health and metrics name no patient and are not recorded.
EVENTS: Final = {
    "/jobs/{job_id}": _VIEWED,
    "/api/jobs/{job_id}": _VIEWED,
    "/api/jobs/{job_id}/results/{kind}": _EXPORTED,
    "/jobs/{job_id}/retry": _DECIDED,
    "/api/jobs/{job_id}/retry": _DECIDED,
    "/studies/{study_id}": _VIEWED,
    "/api/studies/{study_instance_uid}": _VIEWED,
}


class AuditedRequests:
    """Records requests that were answered.

    The node has no login of its own: who is the address, which behind a reverse proxy is the
    proxy's; its log tells the user.
    """

    def __init__(self, config: NodeConfig, database: Database, audit: Audit) -> None:
        self._store_dir = config.store_dir
        self._database = database
        self._audit = audit

    async def record(self, request: Request, response: Response) -> None:
        """Record the request if it is one of `EVENTS` and succeeded."""
        route = request.scope.get("route")
        event = EVENTS.get(getattr(route, "path", ""))
        if event is not None and response.status_code < 400:
            host = request.client.host if request.client else None
            await run_in_threadpool(self._record, event, dict(request.path_params), host)

    def _record(self, event: AuditEvent, named: dict[str, str], host: str | None) -> None:
        subject = self._subject(named)
        study = None
        if subject is not None:
            read = StudyPart.of_file(self._store_dir / subject.path)
            study = StudyPart(subject.study_instance_uid, read.patient_id if read else None)
        job_id, kind = named.get("job_id"), named.get("kind")
        self._audit.record(
            _VIEWED if kind == _SHOWN_ON_PAGES else event,
            who=Who(host=host),
            study=study,
            interface="web",
            action="retry" if event is _DECIDED else None,
            job=int(job_id) if job_id is not None else None,
            kind=kind,
        )

    def _subject(self, named: dict[str, str]) -> Subject | None:
        try:
            with self._database.read() as connection:
                if "job_id" in named:
                    return subject_of_job(connection, int(named["job_id"]))
                study = named.get("study_instance_uid") or int(named["study_id"])
                return subject_of_study(connection, study)
        except Transient:
            return None  # gone since the answer was made: the request is recorded all the same
