"""Drives a server with the published Python client, unmodified.

    stateset.py http://127.0.0.1:PORT [WORD]

Prints `ok NAME` or `FAILED NAME` for every case (with WORD: only those whose name has it) and exits with 1 if one
failed. Cases run side by side, each in an organisation of its own.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import distribution

from support import CASES, World

# Each module registers its cases; those that wait longest come first.
from cases import silence, execution, lifecycle, accounts, files, checkpoints, guide, live, walls  # noqa: F401, E402, I001

VERSION = "2.1.0"
SIDE_BY_SIDE = 10


def published() -> None:
    """Fails unless the client is the published one: its version, and every file as its release says."""
    package = distribution("stateset-sandbox")
    if package.version != VERSION:
        raise SystemExit(f"stateset-sandbox {VERSION} is wanted, {package.version} is installed")
    for file in package.files or []:
        if file.hash is None:
            continue
        digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            raise SystemExit(f"{file} is not as it was published")


def attempt(function, base_url: str) -> tuple[str, float, str]:
    """Runs a case: its name, seconds taken, and what went wrong or nothing."""
    world = World(base_url)
    began = time.monotonic()
    try:
        function(world)
        world.finish()
        problem = ""
    except Exception:  # any problem of a case is that case's failure
        problem = traceback.format_exc(limit=-4)
    return function.__name__.replace("_", " "), time.monotonic() - began, problem


def main() -> int:
    """All cases; 1 if one failed."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    published()
    base_url, word = sys.argv[1], (sys.argv[2] if len(sys.argv) == 3 else "")
    wanted = [function for function in CASES if word in function.__name__.replace("_", " ")]
    failed = 0
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for future in as_completed([pool.submit(attempt, function, base_url) for function in wanted]):
            name, seconds, problem = future.result()
            failed += bool(problem)
            print(f"{'FAILED' if problem else 'ok'} {name} ({seconds:.1f} s)", flush=True)
            if problem:
                print("    " + problem.strip().replace("\n", "\n    "), flush=True)
    return 1 if failed or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
