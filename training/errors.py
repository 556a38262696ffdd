"""What can be wrong with data before anything is trained, and with a training."""

from __future__ import annotations

from dicom_node.errors import BadInput


class TrainingDataError(BadInput):
    """Data that cannot be learned from; names the file or row, the reason and what to do."""


class TrainingError(BadInput):
    """Training cannot go on; names the step and the pictures, or the setting to change."""
