"""What libraries raise over a damaged file, told apart from what is wrong with us."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image
from pydicom.errors import BytesLengthException, InvalidDicomError

from dicom_node.errors import BadInput

DECODER_ERRORS: Final = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    NotImplementedError,
    OSError,
    EOFError,
    struct.error,
    zlib.error,
    MemoryError,
    BytesLengthException,
    InvalidDicomError,
    Image.DecompressionBombError,
)


@contextmanager
def damage_as_bad_input(what: str) -> Iterator[None]:
    """Read or decode a file from the network.

    pydicom converts a value when it is looked at: a damaged one fails far from where it was read.

    Parameters
    ----------
    what
        Begins the sentence that the library's reason ends.

    Raises
    ------
    BadInput
        A library gave up; an interrupt or a stop of the process goes through.
    """
    try:
        yield
    except BadInput:
        raise
    except DECODER_ERRORS as error:
        raise BadInput(f"{what}: {_reason(error)}") from error
    except BaseException as error:
        # A decoder in Rust that runs over the end of its input: no Exception, yet nothing worse.
        if type(error).__name__ != "PanicException":
            raise
        raise BadInput(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """First line of a library's error, short; decoders quote sizes and markers, never patients."""
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
