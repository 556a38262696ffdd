"""Every error that this package raises on purpose.

    NodeError
    ├── Transient          try again later: the same input may succeed
    │   └── DestinationUnavailable
    └── Permanent          trying again cannot help until a person changes something
        ├── ConfigError        configuration, rules or a flag
        ├── BadInput           a data set that cannot be read, decoded or scored
        ├── IdentityConflict   instances of one study disagree on whose they are
        ├── ModelError         a model folder that is not usable
        ├── InvalidResult      a result object that a validator rejects
        └── DeliveryRejected   a destination that says no for good

Adapters map their library's errors to these and keep the cause (`raise ... from`).
No message carries patient data: UIDs are shortened with `short_uid`.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta


class NodeError(Exception):
    """Root of the tree; never raised itself."""


class Transient(NodeError):
    """The same attempt may succeed later."""


class DestinationUnavailable(Transient):
    """A destination did not answer, refused the association or is out of resources.

    Attributes
    ----------
    wait
        For so long it asked to be left alone (HTTP Retry-After); None: it did not.
    """

    def __init__(self, message: str, *, wait: timedelta | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Permanent(NodeError):
    """The same attempt cannot succeed until a person changes something."""


class ConfigError(Permanent):
    """A configuration file, rule or flag is wrong; names the key, the value and the remedy."""


class BadInput(Permanent):
    """A data set cannot be read, decoded or scored; names the tag and the reason."""


class IdentityConflict(Permanent):
    """Instances of one study disagree on Patient ID, Issuer of Patient ID or birth date."""


class ModelError(Permanent):
    """A model folder is not usable; the message holds every reason."""


class InvalidResult(Permanent):
    """A result object failed validation and must not reach the archive."""


class DeliveryRejected(Permanent):
    """A destination rejected an object for a reason that will not pass with time."""


def short_uid(uid: str) -> str:
    """Shorten a UID for logs and messages: 8 hex digits of its SHA-256."""
    return "uid:" + hashlib.sha256(uid.encode()).hexdigest()[:8]
