"""User identity negotiation (PS3.7 D.3.3.7): names and hashed passcodes from a file."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from dicom_node.errors import ConfigError
from dicom_node.receive.limits import Clock, PerMinute
from dicom_node.receive.reload import Reloaded

# User-Identity-Type, PS3.7 table D.3-14
USER_NAME: Final = 1
USER_NAME_AND_PASSCODE: Final = 2
_OTHER_TYPES: Final = {3: "a Kerberos ticket", 4: "a SAML assertion", 5: "a JSON Web Token"}

_COST, _BLOCK, _PARALLEL = 1 << 14, 8, 5  # scrypt: 16 MiB and 0.2 s
_MOST_MEMORY_BYTES = 64 << 20
_FAILURES_PER_MINUTE = 10
_HASH = re.compile(r"scrypt\$(\d{1,7})\$(\d{1,3})\$(\d{1,3})\$([\w+/=]{16,})\$([\w+/=]{40,})")


def hash_passcode(passcode: bytes, salt: bytes) -> str:
    """What `dicom.users_file` keeps of a passcode: `scrypt$N$r$p$salt$hash`."""
    made = _scrypt(passcode, salt, _COST, _BLOCK, _PARALLEL)
    parts = (base64.b64encode(part).decode("ascii") for part in (salt, made))
    return "$".join(("scrypt", str(_COST), str(_BLOCK), str(_PARALLEL), *parts))


def _scrypt(passcode: bytes, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        passcode, salt=salt, n=cost, r=block, p=parallel, maxmem=_MOST_MEMORY_BYTES, dklen=32
    )


@dataclass(frozen=True, slots=True)
class _Passcode:
    """A hash as it is kept."""

    cost: int
    block: int
    parallel: int
    salt: bytes
    hash: bytes

    def fits(self, passcode: bytes) -> bool:
        made = _scrypt(passcode, self.salt, self.cost, self.block, self.parallel)
        return hmac.compare_digest(made, self.hash)


# Stands in for a user that there is not, so that the answer takes as long.
_NOBODY = _Passcode(_COST, _BLOCK, _PARALLEL, b"\0" * 16, b"\0" * 32)


def load_users(file: Path) -> Mapping[str, _Passcode | None]:
    """Read `name: scrypt$...` lines; `name:` alone is a user whose name is enough.

    Raises
    ------
    ConfigError
        The file cannot be read, is no such list or holds a hash that is none; quotes no hash.
    """
    try:
        lines = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"dicom.users_file {file} cannot be read ({type(error).__name__})"
        ) from None  # YAML's message quotes the line
    if not isinstance(lines, dict) or not all(isinstance(name, str) for name in lines):
        raise ConfigError(f"dicom.users_file {file}: write one `name: scrypt$...` a line")
    return {name: _read_hash(file, name, text) for name, text in lines.items()}


def _read_hash(file: Path, name: str, text: object) -> _Passcode | None:
    if text is None:
        return None
    parts = _HASH.fullmatch(text) if isinstance(text, str) else None
    if parts is not None:
        cost, block, parallel = (int(part) for part in parts.groups()[:3])
        try:
            salt, made = (base64.b64decode(part, validate=True) for part in parts.groups()[3:])
            _scrypt(b"", salt, cost, block, parallel)  # whether the numbers are possible
        except ValueError:
            pass
        else:
            return _Passcode(cost, block, parallel, salt, made)
    raise ConfigError(
        f"dicom.users_file {file}: the hash of {name!r} is none; make it with `dicom-node passcode`"
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """What a caller offers as the user's identity."""

    kind: int
    name: bytes = field(repr=False)
    passcode: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The user that was recognised, or why the caller is refused; neither: nobody asked."""

    user: str | None = None
    refused: str | None = None


class UserCheck:
    """Decides on offered identities.

    Parameters
    ----------
    users_file
        None: identities are ignored.
    required
        Whether a caller without one is refused.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, users_file: Path | None, *, required: bool, clock: Clock = time.monotonic
    ) -> None:
        self._required = required
        self._users = (
            None
            if users_file is None
            else Reloaded("dicom.users_file", [users_file], lambda: load_users(users_file))
        )
        self._one_at_a_time = threading.Lock()  # a hash takes 16 MiB and a core
        self._failures = PerMinute(clock)
        self._key = secrets.token_bytes(32)
        self._fitting: tuple[object, set[bytes]] = (None, set())

    def judge(self, offered: Identity | None, host: str) -> Verdict:
        """Recognise the user, or say why not.

        An address that fails too often in a minute is refused unheard for the rest of it.
        """
        if self._users is None:
            return Verdict()
        if offered is None:
            return Verdict(refused="it offers no user identity") if self._required else Verdict()
        if offered.kind not in (USER_NAME, USER_NAME_AND_PASSCODE):
            what = _OTHER_TYPES.get(offered.kind, "an unknown type")
            return Verdict(refused=f"it offers {what}; we take a user name with a passcode")
        if self._failures.seen(host) >= _FAILURES_PER_MINUTE:
            return Verdict(refused="too many wrong passcodes came from its address")
        name = offered.name.decode("utf-8", errors="replace")
        if self._is_right(name, offered, self._users.get()):
            return Verdict(user=name)
        self._failures.count(host)
        return Verdict(refused="its user name or passcode is wrong")

    def _is_right(
        self, name: str, offered: Identity, users: Mapping[str, _Passcode | None]
    ) -> bool:
        if name in users and users[name] is None:
            return offered.kind == USER_NAME
        if offered.kind == USER_NAME:
            return False
        kept = users.get(name) or _NOBODY
        with self._one_at_a_time:
            if self._fitting[0] is not users:
                self._fitting = (users, set())
            # A sender may open an association for every image: the hash is computed once.
            words = len(offered.name).to_bytes(4) + offered.name + offered.passcode
            seal = hmac.digest(self._key, words, "sha256")
            if seal in self._fitting[1]:
                return True
            fits = kept.fits(offered.passcode) and kept is not _NOBODY
            if fits:
                self._fitting[1].add(seal)
            return fits
