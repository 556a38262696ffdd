"""The C-STORE SCP: every image is durable in the inbox before its sender reads success.

Statuses are those of PS3.4 annex B.2.3. The handler needs no database, decodes nothing and never
lets an exception out: pynetdicom would answer 0xC211, which tells the sender to give up.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
from datetime import UTC, datetime
from io import BytesIO
from itertools import count
from typing import Any, cast

import structlog
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.config import NodeConfig
from dicom_node.receive.admission import (
    COMPANION_CLASSES,
    IMAGE_CLASSES,
    TRANSFER_SYNTAXES,
)
from dicom_node.store.inbox import AssociationFolder

VERIFICATION = "1.2.840.10008.1.1"
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
_PART10_PREFIX = b"\x00" * 128 + b"DICM"
_DISK_LOOK_SECONDS = 1.0
_log = structlog.get_logger()


class _Server(ThreadedAssociationServer):
    """Shares its port with other receiver processes and answers without Nagle's delay."""

    def server_bind(self) -> None:
        assert self.socket is not None, "made by the base class before this call"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted sockets inherit it on Linux.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().server_bind()


class Receiver:
    """Accepts associations until stopped.

    Parameters
    ----------
    config
        Uses `ae_title`, `dicom` and `inbox_dir`.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._ae = _application_entity(config)
        self._folders: dict[Association, AssociationFolder] = {}
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._server: ThreadedAssociationServer | None = None
        self._disk_looked_at = 0.0
        self._disk_is_low = False

    def start(self) -> int:
        """Listen; returns the bound port.

        Raises
        ------
        OSError
            The address or port cannot be had.
        """
        dicom = self._config.dicom
        # The stock server offers no hook for its socket's options, hence our subclass of it.
        self._server = _Server(
            self._ae,
            (dicom.host, dicom.port),
            self._config.ae_title,
            self._ae.supported_contexts,
            evt_handlers=[
                (evt.EVT_REJECTED, _on_rejected),
                (evt.EVT_C_STORE, self._on_store),
                (evt.EVT_C_ECHO, lambda _event: SUCCESS),
                (evt.EVT_RELEASED, self._on_end, ["released"]),
                (evt.EVT_ABORTED, self._on_end, ["aborted"]),
                (evt.EVT_CONN_CLOSE, self._on_end, ["aborted"]),
            ],
        )
        self._ae._servers.append(self._server)
        threading.Thread(target=self._server.serve_forever, name="scp", daemon=True).start()
        port = int(self._server.server_address[1])
        _log.info("listening", action="scp_listening", host=dicom.host, port=port)
        return port

    def stop(self, timeout: float = 30.0) -> None:
        """Take no new association; open ones may end within `timeout` seconds, then are aborted."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + timeout
        while self._ae.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ae.shutdown()

    def _on_store(self, event: evt.Event) -> int:
        try:
            if self._low_on_disk():
                return OUT_OF_RESOURCES
            request = cast(C_STORE, event.request)
            data = cast(BytesIO, request.DataSet)
            self._folder(event.assoc).write(_head(event), data.getbuffer())
        except OSError as error:
            _log.error("image not stored", action="store_failed", error=error.strerror)
            return OUT_OF_RESOURCES
        return SUCCESS

    def _folder(self, association: Association) -> AssociationFolder:
        with self._lock:
            if association not in self._folders:
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
                name = f"{stamp}-{os.getpid()}-{next(self._numbers)}"
                self._folders[association] = AssociationFolder(self._config.inbox_dir, name)
            return self._folders[association]

    def _on_end(self, event: evt.Event, ending: Any) -> None:
        with self._lock:
            folder = self._folders.pop(event.assoc, None)
        if folder is not None:
            try:
                folder.close(ending)
            except OSError as error:  # the quiet time will complete the study without this hint
                _log.error("ending not noted", action="ending_failed", error=error.strerror)

    def _low_on_disk(self) -> bool:
        now = time.monotonic()
        if now - self._disk_looked_at >= _DISK_LOOK_SECONDS:
            free = shutil.disk_usage(self._config.inbox_dir).free
            low = free < self._config.dicom.minimum_free_bytes
            if low:
                _log.error("disk is low, images are refused", action="disk_low", free_bytes=free)
            self._disk_is_low, self._disk_looked_at = low, now
        return self._disk_is_low


def _on_rejected(event: evt.Event) -> None:
    _log.warning(
        "association rejected",
        action="association_rejected",
        calling=event.assoc.requestor.ae_title,
    )


def _head(event: evt.Event) -> bytes:
    """Preamble and file meta (PS3.10 section 7.1) with who sent the image."""
    meta = event.file_meta
    requestor = event.assoc.requestor
    meta.SourceApplicationEntityTitle = requestor.ae_title
    meta.SendingApplicationEntityTitle = requestor.ae_title
    if requestor.primitive is not None:
        meta.ReceivingApplicationEntityTitle = requestor.primitive.called_ae_title
    return _PART10_PREFIX + encode_file_meta(meta)


def _application_entity(config: NodeConfig) -> AE:
    dicom = config.dicom
    logging.getLogger("pynetdicom").setLevel(logging.ERROR)  # it would log data sets
    _config.LOG_HANDLER_LEVEL = "none"
    ae = AE(ae_title=config.ae_title)
    ae.require_calling_aet = list(dicom.calling_ae_titles)
    ae.require_called_aet = dicom.require_called_ae_title
    ae.maximum_associations = dicom.max_associations
    ae.maximum_pdu_size = dicom.maximum_pdu_bytes
    ae.network_timeout = dicom.idle_timeout.total_seconds()
    ae.acse_timeout = 30
    ae.dimse_timeout = dicom.idle_timeout.total_seconds()
    ae.add_supported_context(VERIFICATION)
    for sop_class in (*IMAGE_CLASSES, *COMPANION_CLASSES, *dicom.extra_storage_classes):
        ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
    return ae
