"""Pages for people: the worklist, one job, the models. Rendered on the server, no script needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from dicom_node import __version__
from dicom_node.config import NodeConfig
from dicom_node.domain.jobs import InvalidTransition, JobState
from dicom_node.process import utc_now
from dicom_node.store.database import Database
from dicom_node.store.models import known_models
from dicom_node.store.overview import counts, job_detail, job_rows
from dicom_node.store.recovery import retry_job
from dicom_node.web.api import PAGE, same_origin

TEMPLATES = Path(__file__).parent / "templates"


def make_pages(config: NodeConfig, database: Database) -> APIRouter:
    """Build the pages on one database."""
    router = APIRouter(include_in_schema=False)
    templates = Jinja2Templates(TEMPLATES)
    templates.env.globals |= {"version": __version__, "ae_title": config.ae_title}

    def page(request: Request, name: str, **values: Any) -> HTMLResponse:
        return templates.TemplateResponse(request, name, values)

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
        return page(request, "worklist.html", jobs=rows, states=states, chosen=state)

    @router.get("/jobs/{job_id}")
    def job(request: Request, job_id: int) -> HTMLResponse:
        """One job: picture, findings, deliveries, attempts, events."""
        with database.read() as connection:
            found = job_detail(connection, job_id, store_dir=config.store_dir)
        if found is None:
            raise HTTPException(404, "no such job")
        return page(request, "job.html", job=found)

    @router.post("/jobs/{job_id}/retry", dependencies=[Depends(same_origin)])
    def retry(job_id: int) -> RedirectResponse:
        """Bring a job back and show it."""
        try:
            with database.begin() as connection:
                retry_job(connection, job_id, now=utc_now())
        except InvalidTransition as error:
            raise HTTPException(409, str(error)) from error
        return RedirectResponse(f"/jobs/{job_id}", status_code=303)

    @router.get("/models")
    def models(request: Request) -> HTMLResponse:
        """What is offered, for whom, and what is refused."""
        with database.read() as connection:
            return page(request, "models.html", models=known_models(connection))

    return router
