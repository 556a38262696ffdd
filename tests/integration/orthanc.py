"""A real Orthanc with the configuration that docker-compose.yml mounts, and its REST interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread

from tests.e2e.harness import START_SECONDS, free_port, wait_for

ORTHANC_JSON = Path(__file__).resolve().parents[2] / "config" / "orthanc" / "orthanc.json"
NODE_AE_TITLE = "DICOM_NODE"
STOP_SECONDS = 20.0


def orthanc_program() -> str:
    """Path of Orthanc; missing at home skips, missing in CI fails."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("Orthanc is not installed; .ci/run installs it")
        pytest.skip("Orthanc is not installed (Debian: orthanc orthanc-dicomweb)")
    return found


def _with_tls(folder: Path, tls: Mapping[str, Any]) -> Path:
    """The shipped configuration with TLS, in a folder of its own."""
    changed = ORTHANC_JSON.read_text(encoding="utf-8").replace(
        '"Host": "${NODE_HOST:-receiver}",',
        '"Host": "${NODE_HOST:-receiver}", "UseDicomTls": true,',
    )
    keys = json.dumps({"DicomTlsEnabled": True, **tls}, default=str)[1:-1]
    file = folder / ORTHANC_JSON.name
    file.write_text(changed.replace("\n{", "\n{" + keys + ",", 1), encoding="utf-8")
    shutil.copy(ORTHANC_JSON.with_name("forward.lua"), folder)
    return file


class Orthanc:
    """An Orthanc that forwards to `127.0.0.1:node_port` by the shipped rule.

    Parameters
    ----------
    folder
        Gets its storage and its log.
    stable_age, retry_seconds
        Pause until a study is forwarded, and until a failed transfer is repeated.
    tls
        Settings of its DICOM TLS, which it then speaks on its port and to the node; None: no TLS.
    user
        Name and password that its HTTP server demands; None: it lets everybody in.
    """

    ae_title = "ORTHANC"

    def __init__(
        self,
        folder: Path,
        *,
        node_port: int,
        node_ae_title: str = NODE_AE_TITLE,
        stable_age: int = 1,
        retry_seconds: int = 1,
        tls: Mapping[str, Any] | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        folder.mkdir()
        self._configuration = ORTHANC_JSON if tls is None else _with_tls(folder, tls)
        self.log = folder / "log"
        self.dicom_port, self.http_port = free_port(), free_port()
        self._environment: Mapping[str, str] = dict(os.environ) | {
            "TCP_NODELAY": "1",
            "ORTHANC_DICOM_PORT": str(self.dicom_port),
            "ORTHANC_HTTP_PORT": str(self.http_port),
            "ORTHANC_REMOTE_ACCESS": "false",
            "ORTHANC_STORAGE": str(folder / "db"),
            "ORTHANC_STABLE_AGE": str(stable_age),
            "ORTHANC_RETRY_SECONDS": str(retry_seconds),
            "NODE_HOST": "127.0.0.1",
            "NODE_PORT": str(node_port),
            "NODE_AE_TITLE": node_ae_title,
        }
        if user is not None:
            self._environment = dict(self._environment) | {
                "ORTHANC_AUTHENTICATION": "true",
                "ORTHANC_USER": user[0],
                "ORTHANC_PASSWORD": user[1],
            }
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.http_port}", timeout=30, auth=user
        )

    @property
    def peer(self) -> str:
        """The peer as the node's `send_to` names it."""
        return f"{self.ae_title}@127.0.0.1:{self.dicom_port}"

    @property
    def dicomweb_url(self) -> str:
        """Address of its DICOMweb service."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [orthanc_program(), str(self._configuration)],
                env=dict(self._environment),
                cwd=self.log.parent,
                stdout=output,
                stderr=output,
            )
        wait_for(self._answers, START_SECONDS, f"Orthanc answers, see {self.log}")

    def stop(self) -> None:
        """End it in good order, so that it saves its jobs."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        self._client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def upload(self, content: bytes | Path) -> str:
        """Store one instance by REST; returns Orthanc's id of it."""
        body = content.read_bytes() if isinstance(content, Path) else content
        identifier: str = self._post("/instances", content=body)["ID"]
        return identifier

    def get(self, path: str) -> Any:
        """GET, as parsed JSON."""
        answer = self._client.get(path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        """POST, as parsed JSON."""
        return self._post(path, **body)

    def delete_everything(self) -> None:
        """Delete every patient, behind the senders' backs."""
        for identifier in self.get("/patients"):
            self._client.delete(f"/patients/{identifier}").raise_for_status()

    def modalities(self, study_instance_uid: str) -> Counter[str]:
        """How many instances of each Modality the study holds."""
        counts: Counter[str] = Counter()
        for series in self._find("Series", study_instance_uid):
            counts[series["MainDicomTags"]["Modality"]] += len(series["Instances"])
        return counts

    def datasets(self, study_instance_uid: str, modality: str | None = None) -> list[Dataset]:
        """Every instance of the study (of one Modality), downloaded."""
        files = [
            self._client.get(f"/instances/{item['ID']}/file").content
            for item in self._find("Instance", study_instance_uid)
        ]
        loaded = [dcmread(BytesIO(content)) for content in files]
        return [item for item in loaded if modality is None or item.Modality == modality]

    def files(self) -> list[bytes]:
        """The bytes of every instance."""
        names = self.get("/instances")
        return [self._client.get(f"/instances/{name}/file").content for name in names]

    def transfers(self) -> list[str]:
        """The states of all transfers to the node, e.g. `["Success", "Failure"]`."""
        jobs = self.get("/jobs?expand")
        return [job["State"] for job in jobs if job["Type"] == "DicomModalityStore"]

    def is_stable(self, study_instance_uid: str) -> bool:
        """Whether the study is there and Orthanc calls it stable."""
        found = self._find("Study", study_instance_uid)
        return bool(found) and all(study["IsStable"] for study in found)

    def _find(self, level: str, study_instance_uid: str) -> list[dict[str, Any]]:
        query = {"Level": level, "Expand": True, "Query": {"StudyInstanceUID": study_instance_uid}}
        found: list[dict[str, Any]] = self._post("/tools/find", json=query)
        return found

    def _post(self, path: str, **body: Any) -> Any:
        answer = self._client.post(path, **body)
        answer.raise_for_status()
        return answer.json()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"Orthanc ended by itself:\n{self.log.read_text(errors='replace')[-2000:]}")
        with suppress(httpx.TransportError):
            return self._client.get("/system").status_code == httpx.codes.OK
        return False
