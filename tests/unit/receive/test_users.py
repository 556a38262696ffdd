"""User identities: right, wrong, absent, of a kind that is not supported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.errors import ConfigError
from dicom_node.receive.users import Identity, UserCheck, Verdict, hash_passcode, load_users
from tests.unit.receive.test_limits import Clock

SALT = b"0123456789abcdef"


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    file = tmp_path / "users.yaml"
    write(file, {"ct1": hash_passcode(b"right", SALT), "M\u00fcller": None})
    return file


def write(file: Path, users: object) -> None:
    file.write_text(yaml.safe_dump(users, allow_unicode=True), encoding="utf-8")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def offer(name: str, passcode: bytes = b"", kind: int = 2) -> Identity:
    return Identity(kind, name.encode(), passcode)


@pytest.mark.parametrize(
    ("offered", "user", "refused"),
    [
        (offer("ct1", b"right"), "ct1", None),
        (offer("ct1", b"wrong"), None, "user name or passcode is wrong"),
        (offer("ct2", b"right"), None, "user name or passcode is wrong"),
        (offer("ct1", kind=1), None, "user name or passcode is wrong"),
        (offer("M\u00fcller", kind=1), "M\u00fcller", None),
        (offer("M\u00fcller", b"any"), None, "user name or passcode is wrong"),
        (offer("ticket", kind=3), None, "Kerberos ticket"),
        (offer("<saml/>", kind=4), None, "SAML assertion"),
        (offer("a.b.c", kind=5), None, "JSON Web Token"),
        (None, None, "it offers no user identity"),
    ],
)
def test_an_identity_is_recognised_or_refused(
    offered: Identity | None, user: str | None, refused: str | None, users_file: Path
) -> None:
    verdict = UserCheck(users_file, required=True).judge(offered, "10.0.0.1")
    assert verdict.user == user
    assert (verdict.refused is None) if refused is None else (refused in (verdict.refused or ""))


def test_without_users_every_identity_is_ignored() -> None:
    assert UserCheck(None, required=False).judge(offer("x", b"y"), "10.0.0.1") == Verdict()


def test_an_identity_need_not_be_offered_unless_it_is_required(users_file: Path) -> None:
    assert UserCheck(users_file, required=False).judge(None, "10.0.0.1") == Verdict()


def test_guessing_from_one_address_is_stopped_for_the_minute(users_file: Path) -> None:
    clock = Clock()
    check = UserCheck(users_file, required=True, clock=clock)
    for _ in range(10):
        assert check.judge(offer("ct1", kind=1), "10.0.0.1").refused
    verdict = check.judge(offer("ct1", b"right"), "10.0.0.1")
    assert verdict.refused == "too many wrong passcodes came from its address"
    assert check.judge(offer("ct1", b"right"), "10.0.0.2").user == "ct1"
    clock.now += 60
    assert check.judge(offer("ct1", b"right"), "10.0.0.1").user == "ct1"


def test_changed_users_are_read_again_and_a_broken_file_changes_nothing(users_file: Path) -> None:
    check = UserCheck(users_file, required=True)
    assert check.judge(offer("ct1", b"right"), "h").user == "ct1"
    users_file.write_text("ct1: [", encoding="utf-8")
    assert check.judge(offer("ct1", b"right"), "h").user == "ct1"
    write(users_file, {"ct1": hash_passcode(b"new", SALT)})
    assert check.judge(offer("ct1", b"right"), "h").user is None
    assert check.judge(offer("ct1", b"new"), "h").user == "ct1"


@pytest.mark.parametrize(
    "users",
    [
        ["ct1"],
        {"ct1": "plain passcode"},
        {"ct1": "scrypt$3$8$1$" + "A" * 24 + "$" + "A" * 44},
        {"ct1": "scrypt$1048576$8$1$" + "A" * 24 + "$" + "A" * 44},
        {1: None},
    ],
)
def test_a_users_file_that_is_none_is_named_and_not_quoted(users: object, tmp_path: Path) -> None:
    file = tmp_path / "users.yaml"
    write(file, users)
    with pytest.raises(ConfigError, match=r"users\.yaml") as caught:
        load_users(file)
    assert "plain passcode" not in str(caught.value)


def test_neither_name_nor_passcode_shows_in_a_repr() -> None:
    assert "right" not in repr(offer("ct1", b"right"))


def test_the_passcode_command_prints_a_line_that_works(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["passcode", "ct: 1"], input="from a pipe\n")
    assert said.exit_code == 0, said.output
    assert "from a pipe" not in said.output
    file = tmp_path / "users.yaml"
    file.write_text(said.stdout, encoding="utf-8")
    check = UserCheck(file, required=True)
    assert check.judge(offer("ct: 1", b"from a pipe"), "10.0.0.1").user == "ct: 1"
    assert CliRunner().invoke(app, ["passcode", "x"], input="\n").exit_code == 1
