#!/usr/bin/env python3
"""Looks at what a running server keeps: keys as hashes, environments sealed, nothing for others to read.

    tests/clients/at_rest.py http://127.0.0.1:PORT DATA-DIRECTORY SERVER-LOG

Prints `ok NAME` or `FAILED NAME` for every check and exits with 1 if one failed.
"""

import hashlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

SECRET = "s3cret-" + uuid.uuid4().hex
PLAIN = "plain-" + uuid.uuid4().hex


class Check:
    """The server, its data directory, and what failed so far."""

    def __init__(self, origin: str, data: Path, log: Path) -> None:
        self.origin, self.data, self.log = origin, data, log
        self.failed = False

    def call(self, key: str | None, path: str, body: object = None) -> tuple[int, dict]:
        """Status and body of a call: POST with a body, else GET."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"ApiKey {key}"} if key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.origin}/api/v1{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def that(self, name: str, condition: bool, seen: object = "") -> None:
        """Reports one check."""
        self.failed |= not condition
        print(f"ok {name}" if condition else f"FAILED {name}\n    seen: {seen!r}", flush=True)

    def database(self) -> sqlite3.Connection:
        """The server's own database, opened beside it."""
        return sqlite3.connect(self.data / "forkpoint.db", timeout=10, isolation_level=None)

    def used(self) -> int:
        """Bytes in use where the layers are, all written out."""
        subprocess.run(["sync", "--file-system", self.data / "layers"], check=True)
        found = os.statvfs(self.data / "layers")
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def holders(self, text: str) -> list[str]:
        """Names of the files of the database, and the log, that hold a text in clear."""
        files = [*self.data.glob("forkpoint.db*"), *self.data.glob("run/instances/*"), self.log]
        return [file.name for file in files if text.encode() in file.read_bytes()]


def main() -> int:
    """All checks; 1 if one failed."""
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    check = Check(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    _, registered = check.call(None, "/register", {"email": "dev@company.com", "organization_name": PLAIN})
    key = registered["api_key"]["key"]
    _, sandbox = check.call(key, "/sandbox/create", {"env": {"API_KEY": SECRET}})
    _, checkpoint = check.call(key, f"/sandbox/{sandbox['id']}/checkpoints", {"name": PLAIN + "-checkpoint"})
    check.that("at rest: made", checkpoint.get("status") == "ready", checkpoint)

    check.that("at rest: what is no secret is found in clear", check.holders(PLAIN) != [], check.holders(PLAIN))
    for name, text in {"the key": key, "its end": key.rsplit(".", 1)[1], "the environment's value": SECRET}.items():
        check.that(f"at rest: {name} is not", check.holders(text) == [], check.holders(text))
    with check.database() as database:
        hashes = [row[0] for row in database.execute("SELECT hash FROM api_keys")]
        check.that("at rest: the key's SHA-256 is kept", hashlib.sha256(key.encode()).digest() in hashes)
        sealed = database.execute("SELECT count(*) FROM checkpoints WHERE name LIKE ? AND length(env) > 0", (PLAIN + "%",)).fetchone()
        check.that("at rest: the checkpoint has its environment", sealed == (1,), sealed)
    modes = {name: stat.S_IMODE((check.data / name).stat().st_mode) for name in (".", "forkpoint.db", "keys/master.key")}
    check.that("at rest: nobody else may read it", modes["."] == 0o700 and all(mode & 0o077 == 0 for mode in modes.values()), modes)

    # Used space, as the file system of the layers tells it, where its driver shares blocks.
    if any(f"driver={driver}" in check.log.read_text() for driver in ("btrfs", "reflink")):
        fill = {"command": "head -c 300M /dev/urandom > /workspace/big; sync -f /workspace", "timeout": 60_000}
        status, _ = check.call(key, f"/sandbox/{sandbox['id']}/execute", fill)
        before = check.used()
        for number in range(5):
            change = {"command": "head -c 1M /dev/urandom | dd of=/workspace/big conv=notrunc status=none"}
            check.call(key, f"/sandbox/{sandbox['id']}/execute", change)
            check.call(key, f"/sandbox/{sandbox['id']}/checkpoints", {"name": str(number)})
        grown = (check.used() - before) >> 20
        # Five copies would be 1500 MiB; others may use some hundreds meanwhile.
        check.that("at rest: checkpoints of one big file share its blocks", grown < 900, f"{grown} MiB more")

    # Keys that the service itself does not mint, or that have run out: only the row decides.
    _, minted = check.call(key, "/api-keys", {"name": "of another form"})
    foreign = "sk_live_" + uuid.uuid4().hex
    with check.database() as database:
        row = (hashlib.sha256(foreign.encode()).digest(), minted["api_key"]["id"].removeprefix("key_"))
        changed = database.execute("UPDATE api_keys SET hash = ? WHERE id = ?", row).rowcount
    status, _ = check.call(foreign, "/sandboxes")
    check.that("keys: looked up whole, whatever they begin with", (changed, status) == (1, 200), (changed, status))
    _, minted = check.call(key, "/api-keys", {"name": "run out", "expires_in_days": 1})
    with check.database() as database:
        changed = database.execute("UPDATE api_keys SET expires_at = 1000000 WHERE id = ?", (minted["api_key"]["id"].removeprefix("key_"),)).rowcount
    status, answer = check.call(minted["key"], "/sandboxes")
    check.that("keys: one that has run out is 401", (changed, status) == (1, 401), (changed, status, answer))
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
