"""Send RG1 to the composed Orthanc and wait for its results; exit code 0 if all is well."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

ORTHANC = "http://127.0.0.1:8042"
NODE_WEB = "http://127.0.0.1:8080"
START_SECONDS = 240.0
RESULT_SECONDS = 240.0
# Longer than StableAge and the node's completion together: time enough for a loop to show.
SETTLE_SECONDS = 15.0


def say(text: str) -> None:
    """Tell of the progress."""
    sys.stderr.write(f"        {text}\n")


def wait_for(look: Callable[[], Any], seconds: float, what: str) -> Any:
    """Look until there is something to see; a service that does not answer yet is nothing."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except httpx.TransportError:
            pass
        time.sleep(1)
    sys.exit(f"not within {seconds:.0f} s: {what}")


def instances(client: httpx.Client, study: str) -> list[Dataset]:
    """Every instance of the study."""
    listed = client.get(f"/studies/{study}/instances").json()
    return [
        dcmread(BytesIO(client.get(f"/instances/{item['ID']}/file").content)) for item in listed
    ]


def main() -> None:
    """Run the check."""
    radiograph = get_testdata_file("RG1_UNCR.dcm", download=False)
    if radiograph is None:
        sys.exit("pydicom-data is not installed; run `make setup`")
    sent = dcmread(radiograph, stop_before_pixels=True)
    with httpx.Client(base_url=ORTHANC, timeout=30) as client:
        wait_for(lambda: client.get("/system").is_success, START_SECONDS, "Orthanc answers")
        say("Orthanc answers; storing RG1")
        content = Path(radiograph).read_bytes()
        stored = client.post("/instances", content=content).raise_for_status().json()
        study = stored["ParentStudy"]
        wait_for(
            lambda: len(instances(client, study)) >= 3,
            RESULT_SECONDS,
            "SR and Secondary Capture in the study",
        )
        say("results are there; storing RG1 again")
        client.post("/instances", content=content).raise_for_status()
        time.sleep(SETTLE_SECONDS)
        found = instances(client, study)
        counts = Counter(item.Modality for item in found)
        if counts != {"CR": 1, "SR": 1, "OT": 1}:
            sys.exit(f"the study holds {dict(counts)}, not one CR, SR and OT")
        if {(item.PatientID, item.StudyInstanceUID) for item in found} != {
            (sent.PatientID, sent.StudyInstanceUID)
        }:
            sys.exit("results are not in the patient's study")
        say(f"the study holds {dict(counts)}")
        wait_for(
            lambda: httpx.get(f"{NODE_WEB}/readyz", timeout=5).is_success,
            START_SECONDS,
            "the node's web server answers",
        )


if __name__ == "__main__":
    main()
