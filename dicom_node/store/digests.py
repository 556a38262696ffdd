"""What names an instance: a digest of its data set as sent, whoever sent it."""

from __future__ import annotations

from hashlib import file_digest, sha256
from pathlib import Path

_PREAMBLE_BYTES = 132
_GROUP_LENGTH_BYTES = 12


def data_set_digest(path: Path, transfer_syntax_uid: str) -> str:
    """SHA-256 of the transfer syntax UID and the data set's bytes, without the file meta: the same
    data set from another sender is the same.

    Parameters
    ----------
    path
        A Part 10 file whose file meta begins with its group length (PS3.10 section 7.1).
    """
    with path.open("rb") as file:
        head = file.read(_PREAMBLE_BYTES + _GROUP_LENGTH_BYTES)
        length = int.from_bytes(head[-4:], "little")
        file.seek(length, 1)
        body = file_digest(file, "sha256").digest()
    return sha256(transfer_syntax_uid.encode() + b"\0" + body).hexdigest()
