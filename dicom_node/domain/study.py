"""What one received instance is, and when a study is complete: values and pure decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

# Modality (0008,0060) that a SOP class implies (PS3.4 table B.5-1), for headers that state none.
MODALITY_OF_SOP_CLASS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
}

# What stands beside images in a study, by SOP class (PS3.4 table B.5-1): secondary captures,
# presentation states, segmentations, structured reports and documents. Their Modality may be the
# images' own.
_COMPANION_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{part}" for part in (7, 11, 66, 88, 104))
_COMPANION_MODALITIES = frozenset({"SR", "OT", "SEG", "PR", "KO", "DOC"})


class Role(StrEnum):
    """Why an instance is here: to be looked at, or because somebody sent us a result."""

    IMAGE = "image"
    RESULT = "result"


def role_of(sop_class_uid: str, modality: str) -> Role:
    """Tell images that may be scored from results and documents, ours and others'."""
    in_class = any(
        sop_class_uid == prefix or sop_class_uid.startswith(prefix + ".")
        for prefix in _COMPANION_CLASSES
    )
    return Role.RESULT if in_class or modality in _COMPANION_MODALITIES else Role.IMAGE


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """The header of one received instance, normalised once.

    Attributes
    ----------
    digest
        SHA-256 of the transfer syntax UID and the data set's bytes as sent.
    identity_digest
        SHA-256 of Patient ID, Issuer of Patient ID and birth date.
    name_digests
        Three words, one for each group of Patient's Name: a digest, or `-`.
    header
        DICOM keyword to value (str, int, float or a list of these) for the rules; no names.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    identity_digest: str
    has_patient_id: bool
    role: Role
    header: Mapping[str, Any]
    path: str
    size: int
    association: str
    calling_ae_title: str
    received_at: datetime
    name_digests: str = "- - -"

    def stored_at(self, path: str) -> InstanceRecord:
        """The same record with its place in the store."""
        return replace(self, path=path)


@dataclass(frozen=True, slots=True)
class CompletionPolicy:
    """How long to wait for more images.

    Attributes
    ----------
    after_release
        Quiet time after every association that brought images has ended.
    quiet
        Quiet time that suffices although an association is still open, or died unnoticed.
    upper_limit
        Longest time from a revision's first image, however many keep coming.
    """

    after_release: timedelta
    quiet: timedelta
    upper_limit: timedelta


@dataclass(frozen=True, slots=True)
class Complete:
    """The study is complete; `because` is written down with it."""

    because: str


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing can change before this time unless something arrives."""

    when: datetime


def decide_completion(
    policy: CompletionPolicy,
    *,
    first_received_at: datetime,
    last_received_at: datetime,
    association_ends: Iterable[datetime | None],
    now: datetime,
) -> Complete | WaitUntil:
    """Decide whether a study's images are all here.

    Parameters
    ----------
    association_ends
        When each association that brought images of this revision ended; None: still open.

    Raises
    ------
    ValueError
        A naive datetime.
    """
    if any(moment.tzinfo is None for moment in (first_received_at, last_received_at, now)):
        raise ValueError("decide_completion needs aware datetimes")
    limit = first_received_at + policy.upper_limit
    quiet = last_received_at + policy.quiet
    ends = list(association_ends)
    known_ends = [end for end in ends if end is not None]
    due = [(limit, "upper time limit reached"), (quiet, "no image for the quiet time")]
    if known_ends and len(known_ends) == len(ends):
        released = max(last_received_at, *known_ends) + policy.after_release
        due.append((released, "sender released every association"))
    when, because = min(due)
    return Complete(because) if now >= when else WaitUntil(when)


def input_digest(instances: Iterable[tuple[str, str]]) -> str:
    """Digest of a job's input: SHA-256 over sorted (SOP Instance UID, instance digest) pairs."""
    digest = sha256()
    for sop_instance_uid, instance_digest in sorted(instances):
        digest.update(f"{sop_instance_uid}\0{instance_digest}\n".encode())
    return digest.hexdigest()
