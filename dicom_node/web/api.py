"""The REST API: health, metrics, jobs, studies, models and stored results, as JSON and files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as UrlPath
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dicom_node.config import NodeConfig
from dicom_node.domain.jobs import InvalidTransition, JobState
from dicom_node.errors import Transient
from dicom_node.observe.metrics import NodeCollector, node_registry
from dicom_node.process import utc_now
from dicom_node.store.counts import Counts, counts
from dicom_node.store.database import Database
from dicom_node.store.models import known_models
from dicom_node.store.overview import (
    job_detail,
    job_rows,
    quarantined_files,
    study_detail,
    study_rows,
)
from dicom_node.store.recovery import retry_job

PAGE = 200
_SAFE_SITES = {"same-origin", "none"}

RowId = Annotated[int, UrlPath(ge=1, le=2**31 - 1)]  # what the databases' INTEGER holds
Uid = Annotated[str, UrlPath(pattern=r"^[0-9.]{1,64}$")]


def bring_back(database: Database, job_id: int) -> JobState:
    """Retry a job for somebody who asks by HTTP.

    Raises
    ------
    HTTPException
        There is no such job (404), or nothing to retry (409).
    """
    try:
        with database.begin() as connection:
            state = retry_job(connection, job_id, now=utc_now())
    except InvalidTransition as error:
        raise HTTPException(409, str(error)) from error
    if state is None:
        raise HTTPException(404, "no such job")
    return state


def same_origin(request: Request) -> None:
    """Refuse changes that another site's page asks a browser for (CSRF).

    Browsers say where a request comes from in Sec-Fetch-Site, but over plain HTTP only to
    loopback; elsewhere they send Origin. Scripts send neither.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        foreign = site not in _SAFE_SITES
    else:
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        raise HTTPException(403, "only this node's own pages and scripts may do that")


def make_api(config: NodeConfig, database: Database) -> APIRouter:
    """Build the routes on one database."""
    router = APIRouter()
    _add_health(router, config, database)
    _add_jobs(router, config, database)
    _add_studies(router, database)
    return router


def _add_health(router: APIRouter, config: NodeConfig, database: Database) -> None:
    def read_counts() -> Counts:
        with database.read() as connection:
            return counts(connection)

    collector = NodeCollector(
        read_counts, home=config.home, inbox_dir=config.inbox_dir, clock=utc_now
    )
    registry = node_registry(collector)

    @router.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "up"}

    @router.get("/readyz")
    def readyz() -> JSONResponse:
        """The node can work: database and disk; 503 with the reasons if it cannot."""
        problems = list(_problems(config, database))
        return JSONResponse({"problems": problems}, status_code=503 if problems else 200)

    @router.get("/metrics")
    def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _problems(config: NodeConfig, database: Database) -> list[str]:
    problems = []
    try:
        found, head = database.schema_state()
        if found != head:
            problems.append(f"database schema is {found}, needed {head}")
    except Transient as error:
        problems.append(str(error))
    try:
        if shutil.disk_usage(config.home).free < config.dicom.minimum_free_bytes:
            problems.append("less free disk than dicom.minimum_free_bytes")
    except OSError as error:
        problems.append(f"home cannot be read (errno {error.errno})")
    return problems


def _add_jobs(router: APIRouter, config: NodeConfig, database: Database) -> None:
    store_dir = config.store_dir

    @router.get("/api/jobs")
    def jobs(
        state: JobState | None = None, limit: Annotated[int, Query(ge=1, le=5000)] = PAGE
    ) -> list[dict[str, Any]]:
        """Jobs, newest first."""
        with database.read() as connection:
            return job_rows(
                connection, store_dir=store_dir, state=state.value if state else None, limit=limit
            )

    @router.get("/api/jobs/{job_id}")
    def job(job_id: RowId) -> dict[str, Any]:
        """One job with its attempts and events."""
        with database.read() as connection:
            found = job_detail(connection, job_id, store_dir=store_dir)
        if found is None:
            raise HTTPException(404, "no such job")
        return found

    @router.post("/api/jobs/{job_id}/retry", dependencies=[Depends(same_origin)])
    def retry(job_id: RowId) -> dict[str, str]:
        """Bring a parked, failed or refused job back."""
        return {"state": bring_back(database, job_id).value}

    @router.get("/api/jobs/{job_id}/results/{kind}")
    def result(job_id: RowId, kind: str) -> FileResponse:
        """A stored result: `SR` or `SC` as DICOM, `PNG` as the picture of the SC."""
        return _file_of(job(job_id), kind)


def _file_of(job: dict[str, Any], kind: str) -> FileResponse:
    for item in job["results"]:
        if kind == item["kind"]:
            return _file(Path(item["path"]), "application/dicom", f"job-{job['job_id']}-{kind}.dcm")
        if kind == "PNG" and item["preview"]:
            return _file(Path(item["preview"]), "image/png")
    raise HTTPException(404, "no such result")


def _file(path: Path, media_type: str, download_as: str | None = None) -> FileResponse:
    if not path.is_file():
        raise HTTPException(404, "the stored file is missing")
    return FileResponse(path, media_type=media_type, filename=download_as)


def _add_studies(router: APIRouter, database: Database) -> None:
    @router.get("/api/studies")
    def studies(limit: Annotated[int, Query(ge=1, le=5000)] = PAGE) -> list[dict[str, Any]]:
        """Studies, newest first."""
        with database.read() as connection:
            return study_rows(connection, limit=limit)

    @router.get("/api/studies/{study_instance_uid}")
    def study(study_instance_uid: Uid) -> dict[str, Any]:
        """One study with what the rules said to it."""
        with database.read() as connection:
            found = study_detail(connection, study_instance_uid)
        if found is None:
            raise HTTPException(404, "no such study")
        return found

    @router.get("/api/quarantine")
    def quarantine() -> list[dict[str, Any]]:
        """Files that belong to no study because their header cannot be read, and why."""
        with database.read() as connection:
            return quarantined_files(connection)

    @router.get("/api/models")
    def models() -> list[dict[str, Any]]:
        """Models that scorers have verified or refused."""
        with database.read() as connection:
            return [
                {
                    "name": item.name,
                    "version": item.version,
                    "state": item.state,
                    "reason": item.reason,
                    "weights_sha256": item.weights_sha256,
                    "description": dict(item.description),
                }
                for item in known_models(connection)
            ]
