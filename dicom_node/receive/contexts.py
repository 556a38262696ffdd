"""What the receiver takes: SOP classes and transfer syntaxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    BasicTextSRStorage,
    ChestCADSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedSRStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    KeyObjectSelectionDocumentStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class

from dicom_node.errors import ConfigError

VERIFICATION: Final = "1.2.840.10008.1.1"  # PS3.4 annex A
# In the order in which one is chosen where a single context offers several: what needs no
# decoder first, then lossless, then lossy, so that a sender does not compress for our sake.
TRANSFER_SYNTAXES: Final[tuple[str, ...]] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEG2000,
    HTJ2K,
)
SCORED_CLASSES: Final[tuple[str, ...]] = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)
# What stands beside the images in a study: an archive that forwards whole studies must not fail
# on them. They are kept and never scored.
COMPANION_CLASSES: Final[tuple[str, ...]] = (
    SecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    BasicTextSRStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    ChestCADSRStorage,
    XRayRadiationDoseSRStorage,
    KeyObjectSelectionDocumentStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SegmentationStorage,
    EncapsulatedPDFStorage,
)


def storage_contexts(extra: Iterable[str] = ()) -> list[PresentationContext]:
    """Verification and every storage class the receiver takes, each in every transfer syntax.

    Parameters
    ----------
    extra
        UIDs of further storage SOP classes, private ones too.

    Raises
    ------
    ConfigError
        Not a UID, or the UID of something that is not stored.
    """
    for uid in extra:
        _check_storage_class(uid)
    verification = PresentationContext()
    verification.abstract_syntax = UID(VERIFICATION)
    verification.transfer_syntax = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    contexts = [verification]
    for uid in dict.fromkeys((*SCORED_CLASSES, *COMPANION_CLASSES, *extra)):
        context = PresentationContext()
        context.abstract_syntax = UID(uid)
        context.transfer_syntax = list(TRANSFER_SYNTAXES)
        contexts.append(context)
    return contexts


def _check_storage_class(uid: str) -> None:
    """Make sure that pynetdicom takes a C-STORE of this class."""
    if not UID(uid).is_valid:
        raise ConfigError(
            f"dicom.extra_storage_classes: {uid!r} is not a UID; give digits and dots"
        )
    service = uid_to_service_class(uid)
    if service is ServiceClass:
        register_uid(uid, f"Extra_{uid.replace('.', '_')}", StorageServiceClass)
    elif not issubclass(service, StorageServiceClass):
        raise ConfigError(f"dicom.extra_storage_classes: {uid} is not a storage SOP class")
