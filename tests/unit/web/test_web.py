"""The REST API and the pages, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.config import NodeConfig, load_config
from dicom_node.store.database import Database, open_database
from dicom_node.store.deliveries import claim_deliveries
from dicom_node.store.files import write_durably
from dicom_node.store.models import record_model
from dicom_node.store.settlements import settle_parked
from dicom_node.store.studies import quarantine_file
from dicom_node.web.server import create_app
from tests.builders import IMAGE, LEASE, NOW, record, route, scored_job


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return load_config(None, {"home": tmp_path, "dicom": {"minimum_free_bytes": 0}})


@pytest.fixture
def database(config: NodeConfig) -> Iterator[Database]:
    opened = open_database(config.sqlalchemy_url)
    opened.upgrade()
    yield opened
    opened.close()


@pytest.fixture
def client(config: NodeConfig, database: Database) -> TestClient:
    return browser(config, database)


def browser(config: NodeConfig, database: Database) -> TestClient:
    app = create_app(config, database)
    return TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)


def park(database: Database, error: str = "no such SOP class") -> int:
    """A job that a destination refused."""
    job_id = scored_job(database)
    for destination in ("PACS", "ARCHIVE"):
        with database.begin() as connection:
            for item in claim_deliveries(
                connection, destination=destination, token="t", lease=LEASE, limit=9, now=NOW
            ):
                settle_parked(connection, item, error=error, now=NOW)
    return job_id


def test_health_and_readiness(client: TestClient, database: Database) -> None:
    assert client.get("/healthz").json() == {"status": "up"}
    assert client.get("/readyz").status_code == 200


def test_not_ready_says_why(tmp_path: Path, database: Database) -> None:
    full = load_config(None, {"home": tmp_path, "dicom": {"minimum_free_bytes": 2**62}})
    answer = browser(full, database).get("/readyz")
    assert answer.status_code == 503
    assert "minimum_free_bytes" in answer.json()["problems"][0]


def test_an_old_schema_and_a_home_that_is_gone_are_not_ready(tmp_path: Path) -> None:
    config = load_config(None, {"home": tmp_path / "gone"})
    empty = open_database(f"sqlite:///{tmp_path / 'empty.db'}")
    answer = browser(config, empty).get("/readyz")
    empty.close()
    assert answer.status_code == 503
    schema, home = answer.json()["problems"]
    assert schema.startswith("database schema is None")
    assert home.startswith("home cannot be read")


def test_a_database_that_is_gone_is_told_to_programs_and_to_people(
    config: NodeConfig, tmp_path: Path
) -> None:
    nowhere = open_database(f"sqlite:///{tmp_path / 'node.db'}")
    (tmp_path / "node.db").mkdir()  # a folder cannot be opened as a database
    client = browser(config, nowhere)
    assert client.get("/healthz").status_code == 200
    for path in ("/readyz", "/api/jobs", "/metrics"):
        answer = client.get(path)
        assert (answer.status_code, "database" in answer.text) == (503, True), path
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    nowhere.close()


def test_jobs_are_listed_filtered_and_shown(client: TestClient, database: Database) -> None:
    job_id = scored_job(database)
    (job,) = client.get("/api/jobs", params={"state": "scored"}).json()
    assert job["findings"][0]["probability"] == 0.75
    assert client.get("/api/jobs", params={"state": "failed"}).json() == []
    assert client.get("/api/jobs", params={"state": "nonsense"}).status_code == 422
    assert client.get(f"/api/jobs/{job_id}").json()["attempt_log"][0]["stage"] == "score"
    assert client.get("/api/jobs/99").status_code == 404
    assert client.get(f"/api/jobs/{10**30}").status_code == 422
    assert len(client.get("/api/jobs", params={"limit": 1}).json()) == 1


def test_a_stored_result_can_be_fetched_and_no_other_file(
    client: TestClient, database: Database, config: NodeConfig
) -> None:
    job_id = scored_job(database)
    assert client.get(f"/api/jobs/{job_id}/results/SR").json() == {
        "detail": "the stored file is missing"
    }
    write_durably(config.store_dir / "r/1", b"the bytes")
    answer = client.get(f"/api/jobs/{job_id}/results/SR")
    assert (answer.content, answer.headers["content-type"]) == (b"the bytes", "application/dicom")
    for kind in ("SC", "..%2f..%2fnode.db", "PNG"):
        assert client.get(f"/api/jobs/{job_id}/results/{kind}").status_code == 404


def test_retry_brings_a_parked_job_back_and_only_from_our_own_pages(
    client: TestClient, database: Database
) -> None:
    job_id = park(database)
    foreign = client.post(f"/api/jobs/{job_id}/retry", headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403
    assert client.post(f"/api/jobs/{job_id}/retry").json() == {"state": "scored"}
    assert client.post(f"/api/jobs/{job_id}/retry").status_code == 409
    assert client.post("/api/jobs/99/retry").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8080"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_a_change_needs_our_own_origin(
    client: TestClient, database: Database, headers: dict[str, str], status: int
) -> None:
    job_id = park(database)
    assert client.post(f"/api/jobs/{job_id}/retry", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 400),
        ("testserver", 400),
        ("127.0.0.1.evil.example", 400),
    ],
)
def test_only_loopback_names_reach_a_loopback_server(
    client: TestClient, host: str, status: int
) -> None:
    assert client.get("/api/jobs", headers={"host": host}).status_code == status


def test_every_answer_carries_the_headers_that_protect_a_browser(client: TestClient) -> None:
    for path in ("/", "/api/jobs", "/nowhere", "/metrics"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cache-control"] == "no-store", path
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        # "no-referrer" would make browsers send `Origin: null` with our own forms.
        assert headers["referrer-policy"] == "same-origin", path


def test_metrics_count_what_is_in_the_database(client: TestClient, database: Database) -> None:
    park(database)
    families = {
        family.name: {tuple(s.labels.values()): s.value for s in family.samples}
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    assert families["dicom_node_jobs"]["parked",] == 1
    assert families["dicom_node_deliveries"]["PACS", "parked"] == 1
    assert families["dicom_node_instances"][()] == 1
    assert families["dicom_node_disk_free_bytes"][()] > 0


def test_the_pages_show_jobs_with_their_reasons_and_no_script(
    client: TestClient, database: Database
) -> None:
    job_id = park(database)
    worklist = client.get("/").text
    assert "no such SOP class" in worklist
    assert "75.0 %" in worklist
    page = client.get(f"/jobs/{job_id}")
    assert "Retry" in page.text
    assert "outside intended use: age" in page.text
    assert "<script" not in worklist + page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.post(f"/jobs/{job_id}/retry", follow_redirects=False).status_code == 303
    assert "Retry" not in client.get(f"/jobs/{job_id}").text
    assert client.get("/models").status_code == 200


def test_what_a_destination_says_is_text_and_never_markup(
    client: TestClient, database: Database
) -> None:
    job_id = park(database, "<script>alert(1)</script>")
    for path in ("/", f"/jobs/{job_id}"):
        text = client.get(path).text
        assert "<script" not in text
        assert "&lt;script&gt;" in text


@pytest.mark.parametrize("path", ["/nowhere", "/jobs/99", "/jobs/x", "/studies/99", "/?state=x"])
def test_a_page_that_is_not_there_is_a_page_for_a_person(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Back to the worklist" in answer.text


def test_a_retry_of_nothing_is_a_page_for_a_person(client: TestClient, database: Database) -> None:
    job_id = scored_job(database)
    for missing, status in ((99, 404), (job_id, 409)):
        answer = client.post(f"/jobs/{missing}/retry", follow_redirects=False)
        assert answer.status_code == status
        assert "<h1>" in answer.text


def test_the_study_pages_lead_from_files_to_jobs_and_back(
    client: TestClient, database: Database
) -> None:
    job_id = scored_job(database)
    with database.begin() as connection:
        quarantine_file(
            connection,
            path="quarantine/1.dcm",
            reason="no SOP Instance UID",
            association="a",
            calling_ae_title="CR1",
            received_at=NOW,
        )
    (study_id,) = (item["study_id"] for item in client.get("/api/studies").json())
    studies = client.get("/studies").text
    assert "no SOP Instance UID" in studies
    assert f'href="/studies/{study_id}"' in studies
    study = client.get(f"/studies/{study_id}").text
    assert IMAGE.series_instance_uid in study
    assert f'href="/jobs/{job_id}"' in study
    assert f'href="/studies/{study_id}"' in client.get(f"/jobs/{job_id}").text
    (file,) = client.get("/api/quarantine").json()
    assert file["calling_ae_title"] == "CR1"


def test_no_page_shows_what_a_header_says_of_the_patient(
    client: TestClient, database: Database
) -> None:
    record(database, replace(IMAGE, header={"Modality": "CR", "PatientName": "MARKER"}))
    route(database)
    for path in ("/", "/jobs/1", "/studies", "/studies/1", "/models", "/metrics",
                 "/api/jobs", "/api/jobs/1", "/api/studies", "/api/studies/1.2.3"):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "MARKER" not in answer.text, path


def test_models_show_their_evidence_or_why_they_are_refused(
    client: TestClient, database: Database
) -> None:
    evidence = {"data_set": "chest-5", "split": "test", "n": 624, "metric": "AUC", "value": 0.981}
    with database.begin() as connection:
        for name, reason in (("cxr", None), ("bad", "weights do not match their digest")):
            record_model(
                connection,
                name=name,
                version="1.0.0",
                weights_sha256="c" * 64,
                description={"intended_use": "children of 1 to 5 years", "evidence": [evidence]},
                reason=reason,
                now=NOW,
            )
    page = client.get("/models").text
    for text in ("children of 1 to 5 years", "0.981", "weights do not match their digest"):
        assert text in page
    assert [item["state"] for item in client.get("/api/models").json()] == ["refused", "offered"]


def test_studies_show_what_the_rules_said(client: TestClient, database: Database) -> None:
    record(database, IMAGE)
    route(database)
    (study,) = client.get("/api/studies").json()
    assert study["instances"] == 1
    assert client.get("/api/studies/1.2.3").json()["state"] == "routed"
    assert client.get("/api/studies/9.9").status_code == 404
    assert client.get("/api/studies/%00").status_code == 422
    assert client.get("/api/models").json() == []
