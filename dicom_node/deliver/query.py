"""Asking an archive by C-FIND whether it has an object (PS3.4 C.4.1, Study Root, IMAGE level)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.deliver.statuses import SUCCESS
from dicom_node.errors import DeliveryRejected, DestinationUnavailable
from dicom_node.store.deliveries import Delivery

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING: Final = (0xFF00, 0xFF01)
_NOT_SUPPORTED: Final = (0x0122, 0xA900)
# One key names one object: an archive that sends so many ignores the key.
_MOST_MATCHES = 1000

OnLook = Callable[[Delivery, bool], None]


def look_for(
    destination: DestinationConfig,
    calling_ae_title: str,
    sought: Sequence[Delivery],
    on_look: OnLook,
) -> None:
    """Ask for each object over one association.

    Parameters
    ----------
    on_look
        Called for each object in order with whether the archive has it.

    Raises
    ------
    DestinationUnavailable
        It could not be asked for an object; those after it have not been asked for.
    DeliveryRejected
        It offers no such query.
    """
    contexts = [build_context(STUDY_ROOT_FIND, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]
    with associate(destination, calling_ae_title, contexts) as association:
        for number, delivery in enumerate(sought, start=1):
            try:
                found = _has(association, destination, delivery, number)
            except (RuntimeError, ValueError) as error:  # the association has ended
                raise _silent(destination) from error
            on_look(delivery, found)


def _has(
    association: Association, destination: DestinationConfig, delivery: Delivery, number: int
) -> bool:
    found, matches = False, 0
    for answer, identifier in association.send_c_find(_key(delivery), STUDY_ROOT_FIND, number):
        status: int | None = answer.get("Status")
        if status is None:
            raise _silent(destination)
        if status in _PENDING:
            matches += 1
            uid = "" if identifier is None else str(identifier.get("SOPInstanceUID", "")).strip()
            found = found or uid == delivery.sop_instance_uid
            if matches > _MOST_MATCHES:
                raise DestinationUnavailable(
                    f"{destination.ae_title} answers a query for one object with everything"
                )
        elif status in _NOT_SUPPORTED:
            raise DeliveryRejected(
                f"{destination.ae_title} cannot be queried for images, status 0x{status:04X}"
            )
        elif status != SUCCESS:
            raise DestinationUnavailable(
                f"{destination.ae_title} failed in the query, status 0x{status:04X}"
            )
    return found


def _key(delivery: Delivery) -> Dataset:
    key = Dataset()
    key.QueryRetrieveLevel = "IMAGE"
    key.StudyInstanceUID = delivery.study_instance_uid
    key.SeriesInstanceUID = delivery.series_instance_uid
    key.SOPInstanceUID = delivery.sop_instance_uid
    return key


def _silent(destination: DestinationConfig) -> DestinationUnavailable:
    return DestinationUnavailable(f"{destination.ae_title} gave no answer to the query")
