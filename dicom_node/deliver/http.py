"""HTTP with a destination: bounded in time and bytes, and every failure has a plain sentence.

The only module that knows the HTTP library.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import httpx2

from dicom_node import __version__
from dicom_node.config_destinations import DicomwebConfig
from dicom_node.config_network import ClientTlsConfig
from dicom_node.deliver.unreachable import why_no_connection
from dicom_node.errors import ConfigError, DestinationUnavailable
from dicom_node.tls import client_context
from dicom_node.tls_failures import explain_failure

MOST_ANSWER_BYTES: Final = 1 << 20
_SLOWEST_BYTES_PER_SECOND = 125_000  # an answer may take longer for large objects on a slow line
_TCP_CONNECTED: Final = "connection.connect_tcp.complete"
_TLS_CONNECTED: Final = "connection.start_tls.complete"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination answered.

    Attributes
    ----------
    media_type
        Of Content-Type, in small letters and without parameters; empty: none.
    body
        As it came, even if it is compressed although we do not ask for that; None: longer than
        `MOST_ANSWER_BYTES`.
    elsewhere
        Scheme and host to which a redirect leads; None: it is none.
    wait
        For so long it asks to be left alone (Retry-After).
    """

    status: int
    media_type: str
    body: bytes | None
    elsewhere: str | None = None
    wait: timedelta | None = None


class HttpConnection:
    """Requests to one destination, over one connection as long as that lasts."""

    def __init__(self, destination: DicomwebConfig, client: httpx2.Client) -> None:
        self._destination = destination
        self._client = client
        self._socket: socket.socket | None = None
        self._overdue = False
        self._was_made = False

    @property
    def was_made(self) -> bool:
        """Whether the destination has accepted a connection, with TLS where that is asked for."""
        return self._was_made

    def ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Iterable[bytes] | None = None,
        size: int = 0,
    ) -> Answer:
        """Make a request, once and without following redirects.

        Parameters
        ----------
        path
            What follows the destination's URL.
        content, size
            Body and its length in bytes; it has more time the longer it is.

        Raises
        ------
        DestinationUnavailable
            No complete answer; says what to check.
        """
        connect_seconds = self._destination.connect_timeout.total_seconds()
        stalled_seconds = self._destination.response_timeout.total_seconds()
        seconds = stalled_seconds + size / _SLOWEST_BYTES_PER_SECOND
        timeout = httpx2.Timeout(seconds, connect=connect_seconds, write=stalled_seconds)
        sent_headers = dict(headers or {})
        if content is not None:
            sent_headers["Content-Length"] = str(size)
        try:
            request = self._client.build_request(
                method,
                self._destination.url + path,
                params=parameters,
                headers=sent_headers,
                content=content,
                timeout=timeout,
                extensions=self._extensions(),
            )
            with self._within(2 * connect_seconds + seconds):
                return self._exchange(request)
        except (httpx2.HTTPError, OSError) as error:  # OSError: reading the body of the request
            raise DestinationUnavailable(self._why(error, seconds)) from error
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise DestinationUnavailable(
                f"{self._destination.url} is no address that can be called; correct url"
            ) from error

    def _extensions(self) -> dict[str, Any]:
        tls = self._destination.tls
        named = {} if tls is None or tls.server_name is None else {"sni_hostname": tls.server_name}
        return {"trace": self._note, **named}

    def _exchange(self, request: httpx2.Request) -> Answer:
        answer = self._client.send(request, stream=True)
        try:
            body = b""
            # Raw: a compressed answer could unpack to anything.
            for piece in answer.iter_raw():
                body += piece
                if len(body) > MOST_ANSWER_BYTES:
                    break
        finally:
            answer.close()
        return Answer(
            status=answer.status_code,
            media_type=answer.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            body=body if len(body) <= MOST_ANSWER_BYTES else None,
            elsewhere=_elsewhere(answer),
            wait=_wait(answer.headers),
        )

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Cut the connection after this time: the library's limits are for each read or write."""
        self._overdue = False
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _note(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the socket of the connection (the library's `trace` extension)."""
        if event in (_TCP_CONNECTED, _TLS_CONNECTED):
            complete = _TLS_CONNECTED if self._destination.is_encrypted else _TCP_CONNECTED
            self._was_made = self._was_made or event == complete
            self._socket = info["return_value"].get_extra_info("socket")
            if self._overdue:
                self._cut()

    def _cut(self) -> None:
        self._overdue = True
        if self._socket is not None:
            with suppress(OSError):
                # Not its own method: that of a TLS socket takes the session from under the reader.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _why(self, error: Exception, seconds: float) -> str:
        name, cause = self._destination.url, _cause(error)
        if isinstance(error, OSError):
            return f"a file cannot be read while it is sent ({error.strerror})"
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) and cause is not None:
            return why_no_connection(
                name,
                cause,
                limit_seconds=self._destination.connect_timeout.total_seconds(),
                tls=self._destination.is_encrypted,
            )
        if isinstance(error, httpx2.WriteTimeout):
            return f"{name} stopped reading while it was sent to; look into its log"
        if self._overdue or isinstance(error, httpx2.TimeoutException):
            return f"{name} accepted the connection and gave no answer within {seconds:g} s"
        if isinstance(cause, ssl.SSLError):  # TLS 1.3 tells after the handshake
            explained = explain_failure(cause)
            return f"{name}: {explained.found}; {explained.remedy}"
        return f"{name} ended the connection before its answer was complete, or speaks no HTTP"


@contextmanager
def connect(destination: DicomwebConfig) -> Iterator[HttpConnection]:
    """Requests to a destination; certificates and credentials are read anew.

    Raises
    ------
    DestinationUnavailable
        A file of certificates or credentials is missing or wrong.
    """
    try:
        authorization = _authorization(destination)
        # Without TLS there is nothing to verify: False keeps the library from reading CAs for it.
        encrypted = destination.is_encrypted
        verify = client_context(destination.tls or ClientTlsConfig()) if encrypted else False
    except ConfigError as error:
        raise DestinationUnavailable(f"{destination.url}: {error}") from error
    headers = {"User-Agent": f"dicom_node/{__version__}", "Accept-Encoding": "identity"}
    if authorization is not None:
        headers["Authorization"] = authorization
    # Neither proxies nor .netrc of the environment: what is not configured is not used.
    with httpx2.Client(verify=verify, trust_env=False, headers=headers) as client:
        yield HttpConnection(destination, client)


def _authorization(destination: DicomwebConfig) -> str | None:
    """The value of the header (RFC 7617, RFC 6750); errors name the file, never what is in it."""
    if destination.basic_auth_file is not None:
        text = _line(destination.basic_auth_file)
        if ":" not in text:
            raise ConfigError(f"{destination.basic_auth_file} must hold USER:PASSWORD in one line")
        return "Basic " + base64.b64encode(text.encode()).decode()
    if destination.bearer_token_file is not None:
        text = _line(destination.bearer_token_file)
        if not re.fullmatch(r"[!-~]+", text):
            raise ConfigError(f"{destination.bearer_token_file} must hold one token in one line")
        return f"Bearer {text}"
    return None


def _line(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text") from error
    if "\n" in text or "\r" in text:
        raise ConfigError(f"{file} must hold one line")
    return text


def _elsewhere(answer: httpx2.Response) -> str | None:
    target = answer.next_request  # what the library would ask next if it followed
    return None if target is None else f"{target.url.scheme}://{target.url.netloc.decode()}"


def _wait(headers: httpx2.Headers) -> timedelta | None:
    """Retry-After (RFC 9110 section 10.2.3): seconds, or a date by the destination's own clock."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return timedelta(seconds=int(text))
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError):
        return None
    return max(wait, timedelta(0))


def _cause(error: BaseException) -> OSError | None:
    """The operating system's error behind the library's."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, OSError):
        behind = behind.__cause__ or behind.__context__
    return behind
