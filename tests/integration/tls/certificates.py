"""Certificate authorities and certificates of every sort, made with the openssl command."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


def openssl(*words: str | Path) -> str:
    """Run openssl; missing at home skips, missing in CI fails."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not installed; .ci/run installs it")
        pytest.skip("openssl is not installed (Debian: openssl)")
    ended = subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, timeout=60, check=True
    )
    return ended.stdout


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: Path
    key: Path

    def settings(self) -> dict[str, Path]:
        """As the settings name them."""
        return {"certificate_file": self.certificate, "private_key_file": self.key}


class Authority:
    """A CA with a folder of its own; its leaves share one key, for making keys is slow."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._key, self._leaf_key = folder / "ca.key", folder / "leaf.key"
        self.certificate = folder / "ca.pem"
        for key in (self._key, self._leaf_key):
            openssl("genrsa", "-out", key, "2048")
            key.chmod(0o600)
        openssl(
            "req", "-x509", "-key", self._key, "-out", self.certificate, "-days", "30",
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def issue(
        self, common_name: str, *, names: str = "IP:127.0.0.1,DNS:localhost", days: int = 30
    ) -> Pair:
        """A certificate for both roles; negative days: it has expired."""
        stem = self._folder / f"{common_name}.{days}"
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        certificate = stem.with_suffix(".pem")
        extensions.write_text(
            f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n"
            "basicConstraints=CA:FALSE\n"
        )
        openssl(
            "req", "-new", "-key", self._leaf_key, "-subj", f"/CN={common_name}", "-out", request
        )
        openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return Pair(certificate, self._leaf_key)

    def revoke(self, pair: Pair) -> None:
        """Put a certificate on the next list."""
        self._ca("-revoke", pair.certificate)

    def write_list(self, file: Path, *, seconds: int = 7 * 86400) -> None:
        """Write the revocation list as of now, for so long."""
        self._ca("-gencrl", "-crlsec", str(seconds), "-out", file)

    def _ca(self, *words: str | Path) -> None:
        settings, database = self._folder / "ca.cnf", self._folder / "index.txt"
        if not settings.exists():
            database.touch()
            (self._folder / "crlnumber").write_text("01\n")
            settings.write_text(
                f"[ca]\ndefault_ca=here\n[here]\ndatabase={database}\n"
                f"crlnumber={self._folder / 'crlnumber'}\ndefault_md=sha256\n"
            )
        openssl("ca", "-config", settings, "-keyfile", self._key, "-cert", self.certificate, *words)
