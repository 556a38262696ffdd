"""ONNX Runtime, silenced: its official builds report to their maker over HTTPS unless told not to.

Since 1.29 the Linux wheels hold a telemetry client that is on by default (Privacy.md in the
package). It reads this variable when the library is loaded, so that it must be set before; with it
neither uploader nor device identifier is made. Everybody here takes the library from this module.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
