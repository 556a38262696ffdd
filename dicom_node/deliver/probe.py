"""What a peer says of itself when an association is asked for, before anything is sent."""

from __future__ import annotations

from typing import Final

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom.presentation import build_context

from dicom_node.config_destinations import DestinationConfig
from dicom_node.deliver.association import associate
from dicom_node.errors import DeliveryRejected

_VERIFICATION: Final = "1.2.840.10008.1.1"
RESULT_CLASSES: Final = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
"""What results are, all in Explicit VR Little Endian."""


def implementation_behind(destination: DestinationConfig, calling_ae_title: str) -> str | None:
    """Its Implementation Class UID (PS3.7 D.3.3.2).

    Raises
    ------
    DestinationUnavailable, DeliveryRejected
        It does not answer, refuses us or is no DICOM port.
    """
    contexts = [build_context(_VERIFICATION)]
    with associate(destination, calling_ae_title, contexts) as association:
        uid = association.acceptor.implementation_class_uid
        return None if uid is None else str(uid)


def refused_results(destination: DestinationConfig, calling_ae_title: str) -> list[UID]:
    """The SOP classes of results that it would not take.

    Raises
    ------
    DestinationUnavailable
        It does not answer or refuses us.
    """
    contexts = [build_context(uid, ExplicitVRLittleEndian) for uid in RESULT_CLASSES]
    try:
        with associate(destination, calling_ae_title, contexts) as association:
            taken = {context.abstract_syntax for context in association.accepted_contexts}
    except DeliveryRejected:
        taken = set()
    return [uid for uid in RESULT_CLASSES if uid not in taken]
