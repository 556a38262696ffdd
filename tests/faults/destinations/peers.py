"""Archives that do what a script says: statuses, hanging, storage commitment, queries."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.dimse import prepare_pynetdicom
from dicom_node.domain.commitment import CommitmentReport, CommitmentRequest, Reference
from dicom_node.storage_commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    read_report,
    read_request,
    write_report,
    write_request,
)

HANG_SECONDS = 20.0


class Archive:
    """A scripted SCP; its attributes are the script and the protocol of what came.

    Attributes
    ----------
    store_statuses
        Answers to C-STORE in their order; then 0x0000.
    hang_at
        Name of the service that is never answered: store, action, find.
    reasons
        Failure Reasons for the next commitment requests in their order; None: committed. Then all
        are committed.
    report_to
        Where reports go: `same` association, a port on 127.0.0.1, or nowhere (None).
    has
        Whether a C-FIND finds an object; by default what was stored with success.
    """

    def __init__(self, ae_title: str = "PEER") -> None:
        self.ae_title = ae_title
        self.store_statuses: list[int] = []
        self.hang_at: str | None = None
        self.reasons: list[int | None] = []
        self.report_to: str | int | None = "same"
        self.stored: list[str] = []
        self.requests: list[CommitmentRequest] = []
        self.reported: list[int | None] = []
        self.has: Callable[[str], bool] = lambda uid: uid in self.stored
        self.looks = 0
        self._release = threading.Event()
        self._entity: AE | None = None
        self.port = 0

    def start(
        self, port: int = 0, *, classes: tuple[str, ...] | None = None, **settings: Any
    ) -> None:
        """Listen; `settings` are attributes of pynetdicom's AE."""
        prepare_pynetdicom()
        entity = AE(ae_title=self.ae_title)
        for name, value in settings.items():
            setattr(entity, name, value)
        every = (Verification, CTImageStorage, PUSH_MODEL)
        for sop_class in classes or (*every, StudyRootQueryRetrieveInformationModelFind):
            entity.add_supported_context(sop_class, ExplicitVRLittleEndian)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_C_FIND, self._on_find),
        ]
        server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        assert server is not None
        self.port = server.server_address[1]
        self._entity = entity

    def stop(self) -> None:
        """Close the port."""
        self._release.set()
        if self._entity is not None:
            self._entity.shutdown()
            self._entity = None

    def destination(self, **settings: Any) -> dict[str, Any]:
        """The peer as a destination in the configuration."""
        return {
            "ae_title": self.ae_title,
            "host": "127.0.0.1",
            "port": self.port,
            "connect_timeout": 1,
            "response_timeout": 5,
            **settings,
        }

    def _hang(self, service: str) -> None:
        if self.hang_at == service:
            self._release.wait(HANG_SECONDS)

    def _on_store(self, event: evt.Event) -> int:
        self._hang("store")
        status = self.store_statuses.pop(0) if self.store_statuses else 0x0000
        if status == 0x0000:
            self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return status

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self._hang("find")
        self.looks += 1
        uid = str(event.identifier.SOPInstanceUID)
        if self.has(uid):
            match = Dataset()
            match.QueryRetrieveLevel = "IMAGE"
            match.SOPInstanceUID = uid
            yield 0xFF00, match

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        self._hang("action")
        request = read_request(event.action_information)
        self.requests.append(request)
        if self.report_to is not None:
            reason = self.reasons.pop(0) if self.reasons else None
            report = verdict(request, reason)
            threading.Thread(target=self._report, args=(event.assoc, report)).start()
        return 0x0000, None

    def _report(self, association: Any, report: CommitmentReport) -> None:
        if self.report_to == "same":
            self._release.wait(0.1)  # the answer to the request goes first
            if not association.is_established:
                return  # the request was given up meanwhile
            event_type, information = write_report(report)
            answer, _ = association.send_n_event_report(
                information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
            self.reported.append(answer.get("Status"))
        else:
            assert isinstance(self.report_to, int)
            self.reported.append(report_to(self.report_to, report, ae_title=self.ae_title))


def verdict(request: CommitmentRequest, reason: int | None) -> CommitmentReport:
    """The same answer for everything."""
    if reason is None:
        return CommitmentReport(request.transaction_uid, request.references)
    failed = tuple((reference, reason) for reference in request.references)
    return CommitmentReport(request.transaction_uid, (), failed)


def report_to(port: int, report: CommitmentReport, *, ae_title: str = "PEER") -> int | None:
    """Send a report over an association of its own; returns the status."""
    entity = AE(ae_title=ae_title)
    entity.add_requested_context(PUSH_MODEL, ExplicitVRLittleEndian)
    association = entity.associate(
        "127.0.0.1", port, ext_neg=[build_role(PUSH_MODEL, scp_role=True)], ae_title="DICOM_NODE"
    )
    assert association.is_established
    event_type, information = write_report(report)
    answer, _ = association.send_n_event_report(
        information, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    association.release()
    status: int | None = answer.get("Status")
    return status


class Sender:
    """A modality that stores at our port, asks for commitment and hears the answer."""

    def __init__(self, ae_title: str = "MODALITY") -> None:
        self.ae_title = ae_title
        self.heard: list[tuple[str, CommitmentReport]] = []
        self.status = 0x0000
        self._entity: AE | None = None
        self.port = 0

    def listen(self) -> None:
        """Take reports on a port of our own."""
        prepare_pynetdicom()
        self._entity = AE(ae_title=self.ae_title)
        self._entity.add_supported_context(
            PUSH_MODEL, ExplicitVRLittleEndian, scu_role=True, scp_role=True
        )
        server = self._entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report, ["new"])],
        )
        assert server is not None
        self.port = server.server_address[1]

    def stop(self) -> None:
        """Close the port."""
        if self._entity is not None:
            self._entity.shutdown()

    def _on_report(self, event: evt.Event, how: str) -> tuple[int, None]:
        if self.status == 0x0000:
            self.heard.append((how, read_report(event.event_information)))
        return self.status, None

    def connect(self, port: int) -> Any:
        """An association with our receiver on which reports are heard, too."""
        prepare_pynetdicom()
        entity = AE(ae_title=self.ae_title)
        entity.add_requested_context(PUSH_MODEL, ExplicitVRLittleEndian)
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate(
            "127.0.0.1",
            port,
            ae_title="DICOM_NODE",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report, ["same"])],
        )
        assert association.is_established
        return association

    def ask(self, association: Any, transaction: str, *references: tuple[str, str]) -> int:
        """Ask for commitment of (SOP Class UID, SOP Instance UID) pairs; returns the status."""
        request = CommitmentRequest(transaction, tuple(Reference(*pair) for pair in references))
        answer, _ = association.send_n_action(
            write_request(request), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
        return int(answer.Status)


class Silence:
    """A port that takes connections and never says a word, or one wrong half of one.

    Parameters
    ----------
    say
        What is sent at once.
    """

    def __init__(self, say: bytes = b"") -> None:
        self._say = say
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            connection.sendall(self._say)

    def close(self) -> None:
        """Close the port and every connection."""
        for item in (self._server, *self._open):
            item.close()

    def destination(self, **settings: Any) -> dict[str, Any]:
        """The peer as a destination in the configuration."""
        return {
            "ae_title": "SILENT",
            "host": "127.0.0.1",
            "port": self.port,
            "connect_timeout": 1,
            "response_timeout": 1,
            **settings,
        }
