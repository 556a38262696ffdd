"""Pages for people: worklist, jobs, studies, models. Rendered on the server, no script needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from dicom_node import __version__
from dicom_node.config import NodeConfig
from dicom_node.domain.jobs import JobState
from dicom_node.store.counts import counts
from dicom_node.store.database import Database
from dicom_node.store.models import known_models
from dicom_node.store.overview import (
    job_detail,
    job_rows,
    quarantined_files,
    study_detail,
    study_rows,
)
from dicom_node.web.api import PAGE, RowId, bring_back, same_origin

TEMPLATES = Path(__file__).parent / "templates"


_MOVING = {JobState.QUEUED.value, JobState.RUNNING.value}


def make_templates(config: NodeConfig) -> Jinja2Templates:
    """Load the templates with what all of them show."""
    templates = Jinja2Templates(TEMPLATES)
    templates.env.globals |= {"version": __version__, "ae_title": config.ae_title}
    templates.env.filters["moment"] = _moment
    return templates


def _moment(text: str | None) -> str:
    """An ISO time in UTC, to the second, for a table."""
    return text[:19].replace("T", " ") if text else "-"


def make_pages(config: NodeConfig, database: Database, templates: Jinja2Templates) -> APIRouter:
    """Build the pages on one database."""
    router = APIRouter(include_in_schema=False)
    _add_jobs(router, config, database, templates)
    _add_studies(router, database, templates)

    @router.get("/models")
    def models(request: Request) -> HTMLResponse:
        """What is offered, for whom, and what is refused."""
        with database.read() as connection:
            known = known_models(connection)
        return templates.TemplateResponse(request, "models.html", {"models": known})

    return router


def _add_jobs(
    router: APIRouter, config: NodeConfig, database: Database, templates: Jinja2Templates
) -> None:
    @router.get("/")
    def worklist(request: Request, state: JobState | None = None) -> HTMLResponse:
        """Jobs, newest first; parked and failed ones stand out."""
        with database.read() as connection:
            rows = job_rows(
                connection,
                store_dir=config.store_dir,
                state=state.value if state else None,
                limit=PAGE,
            )
            numbers = counts(connection)
        states = [(item.value, numbers.jobs_by_state.get(item.value, 0)) for item in JobState]
        values = {"jobs": rows, "states": states, "chosen": state, "page": PAGE}
        return templates.TemplateResponse(request, "worklist.html", values)

    @router.get("/jobs/{job_id}")
    def job(request: Request, job_id: RowId) -> HTMLResponse:
        """One job: picture, findings, deliveries, attempts, events."""
        with database.read() as connection:
            found = job_detail(connection, job_id, store_dir=config.store_dir)
            if found is None:
                raise HTTPException(404, "no such job")
            (study,) = study_rows(connection, study_instance_uid=found["study_instance_uid"])
        values = {"job": found, "study_id": study["study_id"], "moving": found["state"] in _MOVING}
        return templates.TemplateResponse(request, "job.html", values)

    @router.post("/jobs/{job_id}/retry", dependencies=[Depends(same_origin)])
    def retry(job_id: RowId) -> RedirectResponse:
        """Bring a job back and show it."""
        bring_back(database, job_id)
        return RedirectResponse(f"/jobs/{job_id}", status_code=303)


def _add_studies(router: APIRouter, database: Database, templates: Jinja2Templates) -> None:
    @router.get("/studies")
    def studies(request: Request) -> HTMLResponse:
        """Studies, newest first, and the files that belong to none."""
        with database.read() as connection:
            values: dict[str, Any] = {
                "studies": study_rows(connection, limit=PAGE),
                "quarantined": quarantined_files(connection)[:PAGE],
                "page": PAGE,
            }
        return templates.TemplateResponse(request, "studies.html", values)

    @router.get("/studies/{study_id}")
    def study(request: Request, study_id: RowId) -> HTMLResponse:
        """One study: its series, what the rules said, its jobs and events."""
        with database.read() as connection:
            found = study_rows(connection, study_id=study_id)
            detail = study_detail(connection, found[0]["study_instance_uid"]) if found else None
        if detail is None:
            raise HTTPException(404, "no such study")
        job_ids = sorted({event["job_id"] for event in detail["events"] if event["job_id"]})
        values = {"study": detail, "job_ids": job_ids}
        return templates.TemplateResponse(request, "study.html", values)
