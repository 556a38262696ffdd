"""What a sender has to know of a file before it sends its bytes: its file meta, its size."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

from dicom_node.errors import BadInput

# What pydicom raises at bytes that are not what they claim.
UNREADABLE: Final = (
    InvalidDicomError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A Part 10 file (PS3.10) to be sent.

    Attributes
    ----------
    size
        Bytes, preamble and file meta included.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int

    @property
    def kind(self) -> tuple[str, str]:
        """SOP class and transfer syntax: what a presentation context is for."""
        return self.sop_class_uid, self.transfer_syntax_uid


def read_stored(path: Path) -> StoredFile:
    """Read the file meta information.

    Raises
    ------
    BadInput
        No DICOM file, a DICOMDIR, or a file meta that lacks what a sender needs.
    """
    try:
        meta = read_file_meta_info(path)
    except UNREADABLE as error:
        raise BadInput("not a DICOM file (PS3.10): it has no preamble and file meta") from error
    sop_class_uid = str(meta.get("MediaStorageSOPClassUID", ""))
    sop_instance_uid = str(meta.get("MediaStorageSOPInstanceUID", ""))
    transfer_syntax_uid = str(meta.get("TransferSyntaxUID", ""))
    if sop_class_uid == MediaStorageDirectoryStorage:
        raise BadInput("a DICOMDIR, which is not sent")
    if not (sop_class_uid and transfer_syntax_uid and sop_instance_uid):
        raise BadInput(
            "file meta lacks MediaStorageSOPClassUID (0002,0002), MediaStorageSOPInstanceUID "
            "(0002,0003) or TransferSyntaxUID (0002,0010)"
        )
    return StoredFile(
        path, sop_class_uid, sop_instance_uid, transfer_syntax_uid, path.stat().st_size
    )
