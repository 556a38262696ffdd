"""The web application and its server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dicom_node import __version__
from dicom_node.config import NodeConfig
from dicom_node.observe.audit import NOT_AUDITED, Audit
from dicom_node.store.database import Database
from dicom_node.web.api import make_api
from dicom_node.web.audited import AuditedRequests
from dicom_node.web.failures import add_failures
from dicom_node.web.pages import make_pages, make_templates

DRAIN_SECONDS = 5
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LOOPBACK_NAMES = ["127.0.0.1", "localhost", "[::1]"]  # as the Host header writes them
# The pages carry their style inline and no script at all.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that, browsers hide the origin of our own forms, too.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(config: NodeConfig, database: Database, audit: Audit = NOT_AUDITED) -> FastAPI:
    """Build the application; it reads and changes nothing but the database and stored files."""
    app = FastAPI(title="dicom_node", version=__version__, docs_url=None, redoc_url=None)
    if config.web.host in _LOOPBACK:
        # A page of another site must not reach a loopback server under a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_NAMES)
    templates = make_templates(config)
    app.include_router(make_api(config, database))
    app.include_router(make_pages(config, database, templates))
    add_failures(app, templates)
    audited = AuditedRequests(config, database, audit)

    @app.middleware("http")
    async def secure(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        await audited.record(request, response)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app


def serve_web(
    config: NodeConfig,
    database: Database,
    stop: threading.Event,
    *,
    audit: Audit = NOT_AUDITED,
    on_bound: Callable[[int], None],
) -> None:
    """Serve until `stop` is set.

    Parameters
    ----------
    on_bound
        Called with the port, which matters where port 0 took a free one.

    Raises
    ------
    OSError
        The address or port cannot be had.
    """
    host = config.web.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, config.web.port or 0), family=family)
    settings = uvicorn.Config(
        create_app(config, database, audit),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = uvicorn.Server(settings)

    def stop_with_event() -> None:
        stop.wait()
        server.should_exit = True

    threading.Thread(target=stop_with_event, daemon=True).start()
    on_bound(int(listener.getsockname()[1]))
    # In a thread: uvicorn then leaves the process's signals alone.
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    serving.start()
    serving.join()
