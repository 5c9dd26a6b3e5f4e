"""What the cases share: accounts of their own, clients that are watched, sandboxes that go away, and checks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from stateset_sandbox import CreateSandboxOptions, RegistrationRequest, StateSetSandbox, register
from stateset_sandbox.errors import SandboxApiError

CASES: list[Callable[[World], None]] = []
"""Every case, in the order in which they are started: what takes longest first."""


def case(function: Callable[[World], None]) -> Callable[[World], None]:
    """Makes a function a case; its name, with spaces, is the case's name."""
    CASES.append(function)
    return function


class World:
    """The server under test, as one case sees it."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.clients: list[StateSetSandbox] = []
        self.answers: list[tuple[str, str, int]] = []
        """Method, path and status of every answer that this case's clients got."""
        self._numbers = itertools.count(1)

    def register(self, name: str | None = None) -> Any:
        """A new organisation: the client's own `register()`."""
        name = name or f"Client Test {next(self._numbers)}"
        request = RegistrationRequest(
            email="dev@company.com", organization_name=name, first_name="Ada", last_name="Lovelace", use_case="CI automation"
        )
        return register(self.base_url, request)

    def client(self, key: str | None = None, org_id: str | None = None) -> StateSetSandbox:
        """The published client as its users make it, of a new organisation unless a key is given."""
        key = key or self.register().api_key.key
        client = StateSetSandbox(base_url=self.base_url, auth_token=key, org_id=org_id)
        # Only listens: nothing of what the client sends or does changes.
        client._client.event_hooks["response"].append(self._note)
        self.clients.append(client)
        return client

    def _note(self, response: httpx.Response) -> None:
        self.answers.append((response.request.method, response.request.url.path, response.status_code))

    @contextmanager
    def sandbox(self, client: StateSetSandbox, **options: Any) -> Iterator[str]:
        """The id of a sandbox that is deleted in the end."""
        identifier = client.create(CreateSandboxOptions(**options) if options else None).sandbox_id
        try:
            yield identifier
        finally:
            try:
                client.delete(identifier)
            except SandboxApiError as error:
                if error.status_code != 404:
                    raise

    def finish(self) -> None:
        """Closes the clients and checks what holds for every case: no answer that made a client repeat itself."""
        for client in self.clients:
            client.close()
        repeated = [answer for answer in self.answers if answer[2] == 429 or answer[2] >= 500]
        equal("answers that a client repeats", repeated, [])


def equal(what: str, got: Any, wanted: Any) -> None:
    """Fails unless both are equal."""
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def holds(what: str, condition: Any, seen: Any = "") -> None:
    """Fails unless the condition is true; `seen` is told then."""
    if not condition:
        raise AssertionError(f"{what}; seen: {seen!r}")


def refused(status: int, code: str, call: Callable[[], Any]) -> SandboxApiError:
    """Fails unless the call raises the client's API error with this status and code, a message and a request id."""
    try:
        result = call()
    except SandboxApiError as error:
        equal("status and code", (error.status_code, error.code), (status, code))
        holds("the error has a message and a request id", error.message and error.request_id, vars(error))
        return error
    raise AssertionError(f"was to be refused with {status} {code}, but gave {result!r}")


def shell(client: StateSetSandbox, sandbox: str, command: str) -> str:
    """Standard output of a command that must succeed, within a minute."""
    result = client.execute(sandbox, command, timeout=60_000)
    if result.exit_code != 0:
        raise AssertionError(f"{command!r} ended with {result!r}")
    return result.stdout
