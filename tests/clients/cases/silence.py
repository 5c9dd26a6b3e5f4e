"""A command that stays silent for longer than the client waits for a byte runs once, and its result arrives.

The client gives a request 30 s without a byte and then repeats it, so a server that is silent too runs the command
four times.
"""

from __future__ import annotations

import asyncio
import time

from stateset_sandbox import AsyncSandbox

from support import World, case, equal, holds, shell

SILENT = "echo ran >> /workspace/runs; sleep 40; echo finished"


@case
def a_command_silent_for_40_s_runs_once(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        began = time.monotonic()
        result = client.execute(sandbox, SILENT)
        holds("it took its 40 s", time.monotonic() - began >= 40)
        equal("result", (result.exit_code, result.stdout, result.stderr), (0, "finished\n", ""))
        equal("runs", shell(client, sandbox, "cat /workspace/runs"), "ran\n")
    requests = [answer for answer in world.answers if answer[1].endswith("/execute")]
    equal("requests: one for the command, one to count", len(requests), 2)


@case
def a_streamed_command_silent_for_40_s_runs_once(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        output: list[str] = []
        codes: list[int] = []
        errors: list[Exception] = []
        client.execute_stream(
            sandbox, SILENT, on_stdout=output.append, on_exit=codes.append, on_error=errors.append
        )
        equal("stream", ("".join(output), codes, errors), ("finished\n", [0], []))
        equal("runs", shell(client, sandbox, "cat /workspace/runs"), "ran\n")


@case
def a_command_silent_for_40_s_runs_once_through_the_asynchronous_client(world: World) -> None:
    key = world.register().api_key.key

    async def run() -> None:
        async with await AsyncSandbox.create(api_key=key, base_url=world.base_url) as sandbox:
            result = await sandbox.exec(SILENT)
            equal("result", (result.exit_code, result.stdout), (0, "finished\n"))
            equal("runs", await sandbox.read_file("/workspace/runs"), "ran\n")

    asyncio.run(run())
