"""Logs: sentences with a stable `action`, to standard error, without patient data.

Every process calls `configure_logging` once. Messages of libraries go the same way. A UID in any
text is shortened to eight digits of its hash; values under names of patient attributes are removed.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from dicom_node.config import LogConfig
from dicom_node.errors import short_uid

_UID = re.compile(r"\b[0-2](?:\.\d+){4,}\b")
_PATIENT_KEYS = re.compile(r"patient|birth|accession|physician|person_?name", re.IGNORECASE)
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
    # Warnings of libraries quote values of data sets: highdicom's quotes the patient's name.
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


def without_patient_data(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Remove values under names of patient attributes and shorten every UID."""
    for key, value in event.items():
        if _PATIENT_KEYS.search(key):
            event[key] = REMOVED
        elif isinstance(value, str):
            event[key] = _UID.sub(lambda match: short_uid(match[0]), value)
    return event


def _exception_without_locals(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep an exception's type and places; its text may quote a data set."""
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
    event["exception"] = f"{info[0].__name__} at {' < '.join(reversed(places))}"
    return event
