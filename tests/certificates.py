"""A certificate authority of a test's own, made with openssl."""

import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

DAYS = "3650"


@dataclass(frozen=True)
class Certificates:
    """`authority`: who is believed. `server`, `key`: of the server; `both`: the two in one file, as mongod wants it."""

    authority: Path
    server: Path
    key: Path
    both: Path

    @classmethod
    def made(cls, folder: Path, *names: str) -> "Certificates":
        """For these names and for 127.0.0.1 and localhost."""
        program = shutil.which("openssl")
        if program is None:
            assert os.environ.get("CI") != "true", "openssl is missing"
            pytest.skip("needs openssl")
        authority, server, key = folder / "authority.pem", folder / "server.pem", folder / "server.key"
        request, authority_key = folder / "server.csr", folder / "authority.key"
        alternatives = ",".join(["IP:127.0.0.1", "DNS:localhost", *(f"DNS:{name}" for name in names)])
        extensions = folder / "extensions"
        extensions.write_text(f"subjectAltName={alternatives}\n")
        new = [program, "req", "-newkey", "rsa:2048", "-nodes", "-keyout"]
        for command in (
            [*new, authority_key, "-x509", "-days", DAYS, "-subj", "/CN=test authority", "-out", authority],
            [*new, key, "-subj", "/CN=localhost", "-out", request],
            [
                *(
                    program,
                    "x509",
                    "-req",
                    "-in",
                    request,
                    "-CA",
                    authority,
                    "-CAkey",
                    authority_key,
                    "-CAcreateserial",
                ),
                *("-days", DAYS, "-extfile", extensions, "-out", server),
            ],
        ):
            subprocess.run([str(word) for word in command], check=True, capture_output=True)
        both = folder / "both.pem"
        both.write_bytes(server.read_bytes() + key.read_bytes())
        return cls(authority, server, key, both)

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))
