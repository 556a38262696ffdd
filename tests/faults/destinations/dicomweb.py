"""A scripted DICOMweb service, for what no real one does on demand."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from pydicom import dcmread

HANG_SECONDS = 20.0
DICOM_JSON = "application/dicom+json"


class Request(BaseHTTPRequestHandler):
    """One request; `answer` and the raw streams are for scripts."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(
        self, status: int, body: bytes = b"", media_type: str = DICOM_JSON, **headers: str
    ) -> None:
        """A whole answer; `Retry_After="3"` becomes a header."""
        self.send_response(status)
        if media_type:
            self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Close the connection after this."""
        self.close_connection = True

    def do_POST(self) -> None:
        self.server.peer.on_store(self)

    def do_GET(self) -> None:
        self.server.peer.on_query(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


Script = Callable[[Request, Sequence[bytes]], None]
"""Answers one STOW-RS request, of which it gets the parts."""


class _Server(ThreadingHTTPServer):
    peer: DicomwebPeer
    daemon_threads = True

    def process_request(self, request: Any, client_address: Any) -> None:
        self.peer.on_connection(str(client_address))
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that breaks off is what is tested."""


class DicomwebPeer:
    """A service that stores; its attributes are the script and the protocol of what came.

    Attributes
    ----------
    scripts
        Answers to STOW-RS in their order; then everything is stored.
    query_scripts
        Answers to QIDO-RS in their order; then it says what is stored.
    read_body
        Whether requests are read before they are answered.
    stored
        SOP Instance UID to the file's bytes.
    received
        Number of parts of each STOW-RS request that was read.
    on_connection
        Called with the other side's address for each connection.
    requests
        Method, path with query, and headers of each request.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.scripts: list[Script] = []
        self.query_scripts: list[Script] = []
        self.read_body = True
        self.stored: dict[str, bytes] = {}
        self.received: list[int] = []
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.release = threading.Event()
        self.on_connection: Callable[[str], object] = lambda address: None
        self._scheme = "http" if context is None else "https"
        self._server = _Server(("127.0.0.1", 0), Request)
        self._server.peer = self
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def destination(self, **settings: Any) -> dict[str, Any]:
        """The service as a destination in the configuration."""
        return {
            "url": f"{self._scheme}://127.0.0.1:{self.port}/rs",
            "connect_timeout": 1,
            "response_timeout": 5,
            **settings,
        }

    def on_store(self, request: Request) -> None:
        """A STOW-RS request has come."""
        self.requests.append((request.command, request.path, dict(request.headers)))
        parts: list[bytes] = []
        if self.read_body:
            parts = _parts(request)
            self.received.append(len(parts))
        if self.scripts:
            self.scripts.pop(0)(request, parts)
        else:
            self.store(request, parts)

    def store(self, request: Request, parts: Sequence[bytes]) -> None:
        """Store everything, and say so."""
        for part in parts:
            self.stored[uid_of(part)] = part
        request.answer(200, report(stored=[uid_of(part) for part in parts]))

    def on_query(self, request: Request) -> None:
        """A QIDO-RS request has come."""
        self.requests.append((request.command, request.path, dict(request.headers)))
        if self.query_scripts:
            self.query_scripts.pop(0)(request, [])
            return
        uid = request.path.rpartition("SOPInstanceUID=")[2]
        found = [{"00080018": {"vr": "UI", "Value": [uid]}}] if uid in self.stored else []
        request.answer(200, json.dumps(found).encode())


def _parts(request: Request) -> list[bytes]:
    """The parts of a multipart/related body, split strictly (RFC 2046 section 5.1.1)."""
    body = request.rfile.read(int(request.headers["Content-Length"]))
    kind, _, boundary = request.headers["Content-Type"].partition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    mark = f"--{boundary}".encode()
    assert body.startswith(mark + b"\r\n")
    assert body.endswith(b"\r\n" + mark + b"--\r\n")
    head = b"Content-Type: application/dicom\r\n\r\n"
    inner = body[len(mark) + 2 : -len(mark) - 6]
    parts = inner.split(b"\r\n" + mark + b"\r\n")
    assert all(part.startswith(head) for part in parts)
    return [part.removeprefix(head) for part in parts]


def uid_of(part: bytes) -> str:
    """The SOP Instance UID of a part."""
    return str(dcmread(BytesIO(part), stop_before_pixels=True).SOPInstanceUID)


def report(
    stored: Sequence[str] = (),
    failed: Mapping[str, int | None] | None = None,
    warned: Mapping[str, int] | None = None,
) -> bytes:
    """A Store Instances Response in JSON: UIDs to Failure Reasons and Warning Reasons."""
    good: list[dict[str, Any]] = [_item(uid) for uid in stored]
    good += [_item(uid, "00081196", reason) for uid, reason in (warned or {}).items()]
    bad = [_item(uid, "00081197", reason) for uid, reason in (failed or {}).items()]
    model: dict[str, Any] = {}
    if good:
        model["00081199"] = {"vr": "SQ", "Value": good}
    if bad:
        model["00081198"] = {"vr": "SQ", "Value": bad}
    return json.dumps(model).encode()


def _item(uid: str, tag: str = "", reason: int | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if reason is not None:
        item[tag] = {"vr": "US", "Value": [reason]}
    return item
