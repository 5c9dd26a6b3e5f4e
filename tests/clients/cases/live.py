"""The client's other faces: the asynchronous class, the convenience class, the code interpreter."""

from __future__ import annotations

import asyncio
import os
import tempfile

import httpx
from stateset_sandbox import AsyncSandbox, CodeInterpreter, Sandbox

from support import World, case, equal, holds


@case
def asynchronous_sandboxes_work_side_by_side(world: World) -> None:
    account = world.register()

    async def one(number: int) -> str:
        async with await AsyncSandbox.create(
            api_key=account.api_key.key, base_url=world.base_url, cpus="0.5", memory="256Mi", timeout_seconds=600,
            env={"NUMBER": str(number)},
        ) as sandbox:
            equal("organisation", sandbox.org_id, account.organization.id)
            await sandbox.write_file("/workspace/f", "text é")
            await sandbox.write_files([{"path": "/workspace/d/g", "content": "g"}])
            equal("read", await sandbox.read_file("/workspace/f"), "text é")
            names = [entry["path"] for entry in await sandbox.list_files(recursive=True)]
            equal("list", sorted(names), ["/workspace/d", "/workspace/d/g", "/workspace/f"])
            result = await sandbox.exec("echo $NUMBER $OWN; pwd; exit 3", env={"OWN": "o"}, cwd="/tmp")
            equal("exec", (result.exit_code, result.stdout), (3, f"{number} o\n/tmp\n"))
            equal("list form", (await sandbox.exec(["echo", "a  b"])).stdout, "a  b\n")
            equal("limit of time", (await sandbox.exec("sleep 60", timeout=300)).exit_code, 124)
            before = (await sandbox.extend(60))["expires_at"]
            holds("extend", (await sandbox.extend(60))["expires_at"] > before)
            again = await AsyncSandbox.connect(sandbox.id, api_key=account.api_key.key, base_url=world.base_url)
            equal("connect", await again.read_file("/workspace/d/g"), "g")
            await again._client.aclose()
            return sandbox.id

    async def run() -> None:
        identifiers = await asyncio.gather(*(one(number) for number in range(4)))
        equal("four sandboxes", len(set(identifiers)), 4)
        try:
            await AsyncSandbox.connect("sb-00000000-0000-7000-8000-000000000000", api_key=account.api_key.key, base_url=world.base_url)
        except httpx.HTTPStatusError as error:
            equal("unknown sandbox", error.response.status_code, 404)
        else:
            raise AssertionError("an unknown sandbox was connected to")

    asyncio.run(run())


@case
def the_convenience_class_works_with_a_minted_key(world: World) -> None:
    key = world.register().api_key.key
    with Sandbox.create(api_key=key, base_url=world.base_url, timeout_seconds=600, env={"A": "1"}) as sandbox:
        sandbox.write_file("/workspace/f", "content")
        equal("read", sandbox.read_file("/workspace/f"), "content")
        equal("exec", sandbox.exec("echo $A").stdout, "1\n")
        equal("connect", Sandbox.connect(sandbox.id, api_key=key, base_url=world.base_url).read_file("/workspace/f"), "content")


@case
def the_code_interpreter_runs_code_and_finds_artifacts(world: World) -> None:
    client = world.client()
    with CodeInterpreter(client, timeout_seconds=600) as interpreter:
        code = "import os; os.makedirs('/workspace/artifacts'); open('/workspace/artifacts/plot.txt', 'w').write('x'); print(6 * 7)"
        result = interpreter.run(code)
        equal("python", (result.exit_code, result.stdout, result.artifacts), (0, "42\n", ["/workspace/artifacts/plot.txt"]))
        equal("node", interpreter.run("console.log(1 + 1)", language="node").stdout, "2\n")
        failed = interpreter.run("raise SystemExit(9)")
        equal("exit code", failed.exit_code, 9)
        with tempfile.NamedTemporaryFile(suffix=".bin") as local:
            local.write(bytes(range(256)))
            local.flush()
            remote = interpreter.upload(local.name)
            equal("upload and download", (os.path.basename(remote), interpreter.download(remote)), (os.path.basename(local.name), bytes(range(256))))
