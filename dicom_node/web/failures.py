"""How a failed request is answered: JSON by the API, a page with one sentence elsewhere."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from dicom_node.errors import Transient

_FOR_PROGRAMS = ("/api/", "/healthz", "/readyz", "/metrics", "/openapi.json")


def add_failures(app: FastAPI, templates: Jinja2Templates) -> None:
    """Add the handlers of every error that an endpoint may raise on purpose."""

    def page(request: Request, status: int, sentence: str) -> Response:
        values = {"title": HTTPStatus(status).phrase, "sentence": sentence}
        return templates.TemplateResponse(request, "failure.html", values, status_code=status)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if _for_program(request):
            return await http_exception_handler(request, error)
        return page(request, error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        if _for_program(request):
            return await request_validation_exception_handler(request, error)
        return page(request, 404, "there is no such page")

    @app.exception_handler(Transient)
    async def unavailable(request: Request, error: Transient) -> Response:
        if _for_program(request):
            return JSONResponse({"detail": str(error)}, status_code=503)
        return page(request, 503, str(error))


def _for_program(request: Request) -> bool:
    return request.url.path.startswith(_FOR_PROGRAMS)
