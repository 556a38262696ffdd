"""Files that change while the node runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.errors import ConfigError
from dicom_node.receive.reload import Reloaded


def test_a_file_is_tried_again_once_it_may_be_read(tmp_path: Path) -> None:
    """A renewed key that belonged to root at first: its content and time do not change again."""
    file = tmp_path / "key"
    file.write_text("old")
    file.chmod(0o600)

    def load() -> str:
        if not file.stat().st_mode & 0o400:
            raise ConfigError("cannot be read")
        return file.read_text()

    reloaded = Reloaded("test", [file], load)
    file.write_text("new key")
    file.chmod(0o000)
    assert reloaded.get() == "old"
    file.chmod(0o600)
    assert reloaded.get() == "new key"


def test_a_file_that_is_unusable_at_the_start_stops_it(tmp_path: Path) -> None:
    def load() -> str:
        raise ConfigError("broken")

    with pytest.raises(ConfigError, match="broken"):
        Reloaded("test", [tmp_path / "absent"], load)
