"""What the fork server of the stages imports once."""

from dicom_node.score.lean import import_monai_lean

import_monai_lean()

import dicom_node.assemble.worker  # noqa: E402
import dicom_node.cli.stages  # noqa: E402
import dicom_node.deliver.worker  # noqa: E402
import dicom_node.receive.scp  # noqa: E402
import dicom_node.report.worker  # noqa: E402
import dicom_node.score.worker  # noqa: E402, F401
