"""A receiver whose port nobody listens at any more must not live on as if nothing had happened."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from dicom_node.receive.scp import Receiver
from tests.e2e.harness import free_port

# Memory that runs out while a connection is accepted ends the thread that listens.
_PROGRAM = """
import sys
from dicom_node.cli import main
from dicom_node.receive.transport import StorageAssociationServer

def no_memory(server):
    raise MemoryError

StorageAssociationServer.get_request = no_memory
sys.argv = ["dicom-node", "receive", "--home", sys.argv[1]]
main()
"""


def test_a_receiver_that_lost_its_port_ends_so_that_it_is_started_again(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "node.yaml").write_text(f"dicom: {{port: {port}}}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    assert process.poll() is None
    with socket.create_connection(("127.0.0.1", port)):
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "thread_died" in said
    assert "a port was lost" in said


def test_a_receiver_that_works_says_that_it_listens(start_receiver) -> None:
    receiver: Receiver
    receiver, node = start_receiver()
    with socket.create_connection((node.host, node.port)):
        assert receiver.is_listening()
