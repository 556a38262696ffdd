"""Logs: sentences with a stable `action`, to standard error, without patient data.

Every process calls `configure_logging` once. Messages of libraries go the same way, and so do
exceptions that nobody caught. A UID in any text, however deeply nested, is shortened to eight
digits of its hash; values under names of patient attributes are removed; of an object that is no
plain value only its type is told, for its text may be a data set.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from datetime import date, timedelta
from numbers import Integral
from pathlib import PurePath
from types import TracebackType
from typing import Any

import structlog

from dicom_node.config import LogConfig
from dicom_node.errors import NodeError, short_uid

# No word boundary: file names put letters and underscores right before a UID.
_UID = re.compile(r"\d+(?:\.\d+){4,}")
_PATIENT_KEYS = re.compile(r"patient|birth|accession|physician|person_?name|\bmrn\b", re.IGNORECASE)
_CHATTY = (
    "py.warnings",
    "pydicom",
    "pynetdicom",
    "monai",
    "onnxruntime",
    "alembic",
    "uvicorn",
    "PIL",
    "highdicom",
    "httpx2",  # logs the address of every request
    "httpcore2",
)
REMOVED = "[removed]"


def configure_logging(config: LogConfig, process: str) -> None:
    """Send all logs of this process to standard error.

    Parameters
    ----------
    process
        Name of the stage, in every line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_process(process),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_without_locals,
        without_patient_data,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if config.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(config.level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(config.level.upper())
    structlog.contextvars.clear_contextvars()
    _quieten_libraries()
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread_death


def _quieten_libraries() -> None:
    # Warnings of libraries quote values of data sets: highdicom's quotes the patient's name.
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def _with_process(process: str) -> structlog.typing.Processor:
    def add(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        # Not a context variable: threads start without those.
        event["process"] = process
        return event

    return add


def without_patient_data(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Remove values under names of patient attributes and shorten every UID."""
    for key, value in event.items():
        if key not in _OWN_KEYS:
            event[key] = _cleaned(key, value)
    return event


# Of structlog's formatter: objects that it takes out again before anything is written.
_OWN_KEYS = frozenset({"_record", "_from_structlog"})


def _cleaned(key: str, value: Any) -> Any:
    if _PATIENT_KEYS.search(key):
        return REMOVED
    if isinstance(value, str | PurePath | date | timedelta | NodeError):  # date: datetime, too
        return _without_uids(str(value))
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Integral):  # NumPy's
        return int(value)
    if type(value) is dict:
        return {_without_uids(str(k)): _cleaned(str(k), item) for k, item in value.items()}
    if type(value) in {list, tuple, set, frozenset}:
        return [_cleaned("", item) for item in value]
    return f"[{type(value).__name__}]"


def _without_uids(text: str) -> str:
    return _UID.sub(lambda match: short_uid(match[0]), text)


def _exception_without_locals(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep an exception's type and places; its text may quote a data set, except for our own."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if not info or info[0] is None:
        return event
    places, trace = [], info[2]
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    told = f"{info[0].__name__}: {info[1]}" if isinstance(info[1], NodeError) else info[0].__name__
    event["exception"] = f"{told} at {' < '.join(reversed(places))}"
    return event


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    structlog.get_logger().critical(
        "the process ends by an error", action="process_died", exc_info=(kind, error, trace)
    )


def _log_thread_death(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    structlog.get_logger().critical(
        "a thread ends by an error",
        action="thread_died",
        thread=args.thread.name if args.thread else None,
        exc_info=args.exc_value,
    )
