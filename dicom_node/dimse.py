"""What both roles on the DICOM network share: who we are, sockets and a quiet pynetdicom."""

from __future__ import annotations

import logging
import socket
from typing import Final

from pynetdicom import _config  # noqa: TID251 - one set-up for receive/ and deliver/
from pynetdicom.events import Event  # noqa: TID251 - the same

# Derived from a UUID, PS3.5 B.2; names this implementation (PS3.7 D.3.3.2), not its version.
IMPLEMENTATION_CLASS_UID: Final = "2.25.207312283374112842126229917543310473189"
IMPLEMENTATION_VERSION_NAME: Final = "DICOM_NODE"
# 0: no limit (PS3.8 D.1). Fewer, larger PDUs cost a Python peer far less.
UNLIMITED_PDU: Final = 0


def prepare_pynetdicom() -> None:
    """Set pynetdicom up for this process; harmless if done twice.

    Its loggers write data sets and peers' errors: they are silenced, and its logging handlers,
    which cost a third of the throughput, are not bound. Files are sent as they are stored.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True


def prepare_socket(event: Event, timeout_seconds: float) -> None:
    """On EVT_CONN_OPEN: no Nagle delay, and no read or write that waits for ever.

    With Nagle's algorithm each answer waits for the peer's delayed ACK, about 40 ms.
    """
    wrapper = event.assoc.dul.socket
    connection = None if wrapper is None else wrapper.socket
    if connection is None:
        return  # gone again
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout_seconds)
