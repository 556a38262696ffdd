"""The REST API and the pages, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.config import NodeConfig, load_config
from dicom_node.store.database import Database, open_database
from dicom_node.store.deliveries import claim_deliveries, settle_parked
from dicom_node.store.files import write_durably
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
    return TestClient(create_app(config, database), raise_server_exceptions=False)


def park(database: Database) -> int:
    """A job that a destination refused."""
    job_id = scored_job(database)
    for destination in ("PACS", "ARCHIVE"):
        with database.begin() as connection:
            for item in claim_deliveries(
                connection, destination=destination, token="t", lease=LEASE, limit=9, now=NOW
            ):
                settle_parked(connection, item, error="no such SOP class", now=NOW)
    return job_id


def test_health_and_readiness(client: TestClient, database: Database) -> None:
    assert client.get("/healthz").json() == {"status": "up"}
    assert client.get("/readyz").status_code == 200


def test_not_ready_says_why(tmp_path: Path, database: Database) -> None:
    full = load_config(None, {"home": tmp_path, "dicom": {"minimum_free_bytes": 2**62}})
    answer = TestClient(create_app(full, database)).get("/readyz")
    assert answer.status_code == 503
    assert "minimum_free_bytes" in answer.json()["problems"][0]


def test_jobs_are_listed_filtered_and_shown(client: TestClient, database: Database) -> None:
    job_id = scored_job(database)
    (job,) = client.get("/api/jobs", params={"state": "scored"}).json()
    assert job["findings"][0]["probability"] == 0.75
    assert client.get("/api/jobs", params={"state": "failed"}).json() == []
    assert client.get("/api/jobs", params={"state": "nonsense"}).status_code == 422
    assert client.get(f"/api/jobs/{job_id}").json()["attempt_log"][0]["stage"] == "score"
    assert client.get("/api/jobs/99").status_code == 404


def test_a_stored_result_can_be_fetched_and_no_other_file(
    client: TestClient, database: Database, config: NodeConfig
) -> None:
    job_id = scored_job(database)
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


def test_a_foreign_host_name_is_refused(client: TestClient) -> None:
    assert client.get("/api/jobs", headers={"host": "evil.example"}).status_code == 400


def test_metrics_count_what_is_in_the_database(client: TestClient, database: Database) -> None:
    park(database)
    families = {
        family.name: {tuple(s.labels.values()): s.value for s in family.samples}
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    assert families["dicom_node_jobs"]["parked",] == 1
    assert families["dicom_node_deliveries"]["PACS", "parked"] == 1
    assert families["dicom_node_instances"][()] == 1


def test_the_pages_show_jobs_with_their_reasons_and_no_script(
    client: TestClient, database: Database
) -> None:
    job_id = park(database)
    worklist = client.get("/").text
    assert "no such SOP class" in worklist
    assert "75.0 %" in worklist
    page = client.get(f"/jobs/{job_id}")
    assert "Retry" in page.text
    assert "<script" not in worklist + page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.post(f"/jobs/{job_id}/retry", follow_redirects=False).status_code == 303
    assert client.get("/models").status_code == 200


def test_studies_show_what_the_rules_said(client: TestClient, database: Database) -> None:
    record(database, IMAGE)
    route(database)
    (study,) = client.get("/api/studies").json()
    assert study["instances"] == 1
    assert client.get("/api/studies/1.2.3").json()["state"] == "routed"
    assert client.get("/api/studies/9.9").status_code == 404
    assert client.get("/api/models").json() == []
