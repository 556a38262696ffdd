"""Results built once for all tests that only look at them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.report.cases import Case, chest_case, ct_case, refused_case


@pytest.fixture(scope="session")
def chest_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return chest_case().store(tmp_path_factory.mktemp("chest"))


@pytest.fixture(scope="session")
def refused_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return refused_case().store(tmp_path_factory.mktemp("refused"))


@pytest.fixture(scope="session")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return ct_case(tmp_path_factory.mktemp("slices"))


@pytest.fixture(scope="session")
def ct_results(ct: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ct.store(tmp_path_factory.mktemp("ct"))
