"""What the receiver offers."""

from __future__ import annotations

import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

from dicom_node.errors import ConfigError
from dicom_node.receive.contexts import TRANSFER_SYNTAXES, storage_contexts


def test_every_storage_class_is_offered_once_in_every_transfer_syntax() -> None:
    contexts = storage_contexts([CTImageStorage, MRImageStorage])
    classes = [context.abstract_syntax for context in contexts]
    assert len(classes) == len(set(classes))
    assert MRImageStorage in classes
    assert all(len(c.transfer_syntax) == len(TRANSFER_SYNTAXES) for c in contexts[1:])


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        ("CTImageStorage", "is not a UID"),
        ("1.2.840.10008.5.1.4.1.2.1.1", "is not a storage SOP class"),  # C-FIND
    ],
)
def test_an_extra_class_that_cannot_be_stored_is_refused(uid: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        storage_contexts([uid])
