"""Checkpoints: create, list, get, restore, clone, compare, delete."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from stateset_sandbox import CreateCheckpointOptions as Options

from support import World, case, equal, holds, refused, shell


@case
def a_checkpoint_says_what_it_holds(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        empty = client.create_checkpoint(sandbox, Options(name="empty"))
        equal("a fresh sandbox holds nothing", (empty.size, empty.file_count), (0, 0))
        client.write_files(sandbox, [{"path": "/workspace/a", "content": "12345"}, {"path": "/workspace/d/b", "content": "678"}])
        made = client.create_checkpoint(sandbox, Options(name="Initial setup complete", description="two files"))
        equal("size and count", (made.size, made.file_count), (8, 2))
        equal("echo", (made.name, made.description, made.sandbox_id, made.metadata), ("Initial setup complete", "two files", sandbox, {}))
        equal("organisation", made.org_id, client.get(sandbox).org_id)
        equal("get", client.get_checkpoint(made.id), made)
        equal("list, newest first", client.list_checkpoints(), [made, empty])
        with world.sandbox(client) as other:
            elsewhere = client.create_checkpoint(other, Options(name="elsewhere"))
            equal("of the organisation", [item.id for item in client.list_checkpoints()], [elsewhere.id, made.id, empty.id])
            equal("of one sandbox", client.list_checkpoints(other), [elsewhere])
        holds("they outlive their sandbox", elsewhere in client.list_checkpoints())


@case
def included_and_excluded_paths_bound_what_is_captured(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        paths = ["src/a.py", "src/node_modules/m.js", "config/c.yaml", "other/o", "x.log", "logs/deep.log"]
        client.write_files(sandbox, [{"path": f"/workspace/{path}", "content": path} for path in paths])
        source = client.create_checkpoint(sandbox, Options(
            name="source", include_paths=["/workspace/src", "/workspace/config", "/workspace/missing"],
            exclude_paths=["/workspace/src/node_modules"],
        ))
        equal("exclusion wins", source.file_count, 2)
        no_logs = client.create_checkpoint(sandbox, Options(name="no logs", exclude_paths=["/workspace/*.log"]))
        equal("a star does not cross directories", no_logs.file_count, 5)
        shell(client, sandbox, "rm -r src config; echo later > src-less; echo kept > other/o")
        equal("restore", client.restore_checkpoint(sandbox, source.id), True)
        equal("what was captured is back", shell(client, sandbox, "cat src/a.py config/c.yaml"), "src/a.pyconfig/c.yaml")
        equal("what was not is left alone", shell(client, sandbox, "cat src-less other/o; ls src"), "later\nkept\na.py\n")


@case
def restore_rewinds_files_and_keeps_the_sandbox(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.write_files(sandbox, [{"path": f"/workspace/{p}", "content": p} for p in ("changed", "removed/deep")])
        shell(client, sandbox, "chmod 750 removed/deep; ln -s changed link")
        checkpoint = client.create_checkpoint(sandbox, Options(name="good")).id
        before = client.get(sandbox)
        for _ in range(3):
            shell(client, sandbox, "echo BROKEN > changed; rm -r removed link; echo new > added")
            equal("restore", client.restore_checkpoint(sandbox, checkpoint), True)
            listing = shell(client, sandbox, "cat changed removed/deep; stat -c ' %a' removed/deep; readlink link; ls")
            equal("exactly as it was", listing, "changedremoved/deep 750\nchanged\nchanged\nlink\nremoved\n")
        # All but the address: processes started anew may be reached elsewhere.
        equal("the same sandbox", client.get(sandbox).model_copy(update={"pod_ip": before.pod_ip}), before)


@case
def restore_without_overwriting_only_adds_what_is_missing(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.write_files(sandbox, [{"path": f"/workspace/{p}", "content": "old"} for p in ("kept", "gone")])
        checkpoint = client.create_checkpoint(sandbox, Options(name="old")).id
        shell(client, sandbox, "printf new > kept; rm gone; printf new > added")
        equal("restore", client.restore_checkpoint(sandbox, checkpoint, overwrite=False), True)
        equal("files", shell(client, sandbox, "head -c 9 kept gone added"), "==> kept <==\nnew\n==> gone <==\nold\n==> added <==\nnew")


@case
def environment_and_files_are_restored_as_asked(world: World) -> None:
    client = world.client()
    with world.sandbox(client, env={"DEBUG": "true"}) as source, world.sandbox(client, env={"DEBUG": "false", "MINE": "1"}) as target:
        client.write_file(source, "/workspace/f", "from the source")
        with_env = client.create_checkpoint(source, Options(name="with", include_env=True)).id
        without = client.create_checkpoint(source, Options(name="without")).id
        look = "echo $DEBUG $MINE; cat f 2>/dev/null || echo none"

        client.restore_checkpoint(target, without, restore_files=False, restore_env=True)
        equal("nothing captured, nothing restored", shell(client, target, look), "false 1\nnone\n")
        client.restore_checkpoint(target, with_env)
        equal("files into another sandbox, environment left", shell(client, target, look), "false 1\nfrom the source")
        shell(client, target, "rm f")
        client.restore_checkpoint(target, with_env, restore_files=False, restore_env=True)
        equal("environment alone, exactly", shell(client, target, look), "true\nnone\n")


@case
def a_clone_lives_on_without_its_origin(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.write_file(sandbox, "/workspace/f", "kept")
        origin = client.create_checkpoint(sandbox, Options(name="origin", description="d"))
        clone = client.clone_checkpoint(origin.id, "backup")
        equal("clone", (clone.name, clone.sandbox_id, clone.size, clone.file_count), ("backup", sandbox, 4, 1))
        holds("another id, and later", clone.id != origin.id and clone.created_at >= origin.created_at, clone)
        diff = client.compare_checkpoints(origin.id, clone.id)["diff"]
        equal("no difference", {key: value for key, value in diff.items() if value}, {})
        equal("delete", client.delete_checkpoint(origin.id), True)
        refused(404, "not_found", lambda: client.get_checkpoint(origin.id))
        refused(404, "not_found", lambda: client.restore_checkpoint(sandbox, origin.id))
        refused(404, "not_found", lambda: client.delete_checkpoint(origin.id))
        shell(client, sandbox, "rm f")
        equal("restore", client.restore_checkpoint(sandbox, clone.id), True)
        equal("content", client.read_file(sandbox, "/workspace/f"), "kept")
        equal("list", [item.id for item in client.list_checkpoints(sandbox)], [clone.id])
        # And the other way about: an origin without its clone.
        client.delete_checkpoint(client.clone_checkpoint(clone.id, "short-lived").id)
        shell(client, sandbox, "rm f")
        equal("restore", client.restore_checkpoint(sandbox, clone.id), True)
        equal("content", client.read_file(sandbox, "/workspace/f"), "kept")


@case
def compare_tells_what_came_went_and_changed(world: World) -> None:
    client = world.client()
    with world.sandbox(client, env={"A": "1", "B": "2"}) as one, world.sandbox(client, env={"B": "3", "C": "4"}) as two:
        client.write_files(one, [{"path": f"/workspace/{p}", "content": "same"} for p in ("same", "touched", "changed", "gone/x")])
        first = client.create_checkpoint(one, Options(name="first", include_env=True))
        client.restore_checkpoint(two, first.id)
        shell(client, two, "touch touched; chmod 600 touched; printf longer > changed; rm -r gone; mkdir d; printf 12 > d/added")
        second = client.create_checkpoint(two, Options(name="second", include_env=True))
        answer = client.compare_checkpoints(first.id, second.id)
        equal("first", answer["checkpoint_1"], {"id": first.id, "name": "first"})
        equal("second", answer["checkpoint_2"], {"id": second.id, "name": "second"})
        diff = answer["diff"]
        for kind, wanted in {"added": ["/workspace/d/added"], "removed": ["/workspace/gone/x"], "modified": ["/workspace/changed"]}.items():
            equal(kind, (diff[f"files_{kind}"], diff[kind]), (wanted, wanted))
        equal("environment", (diff["env_added"], diff["env_removed"], diff["env_modified"]), ({"C": "4"}, {"A": "1"}, {"B": {"old": "2", "new": "3"}}))
        equal("size", diff["size_change_bytes"], second.size - first.size)
        equal("sum", second.size - first.size, 2 + 6 - 4 - 4)


@case
def a_checkpoint_leaves_what_runs_alone_and_holds_nothing_later(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        counter = "setsid sh -c 'echo $$ > pid; n=0; while :; do n=$((n+1)); echo $n > c && mv c count; sleep 0.01; done' >/dev/null 2>&1 </dev/null &"
        shell(client, sandbox, counter + " until [ -s count ]; do sleep 0.01; done")
        for number in range(5):
            client.write_file(sandbox, "/workspace/state", f"before {number}")
            checkpoint = client.create_checkpoint(sandbox, Options(name=f"{number}", include_paths=["/workspace/state"])).id
            client.write_file(sandbox, "/workspace/state", "after")
            with world.sandbox(client) as other:
                client.restore_checkpoint(other, checkpoint)
                equal("what was captured", client.read_file(other, "/workspace/state"), f"before {number}")
        alive = "kill -0 $(cat pid) && a=$(cat count) && until [ \"$(cat count)\" -gt $a ]; do sleep 0.01; done; echo counts on"
        equal("the same process", shell(client, sandbox, alive), "counts on\n")


WRITER = """
import os, time
longest, last, end, lines = 0.0, time.monotonic(), "/workspace/end", 0
while not os.path.exists(end):
    with open("/workspace/lines", "a") as file:
        file.write("x\\n")
    now = time.monotonic()
    longest, last, lines = max(longest, now - last), now, lines + 1
print(lines, longest)
"""


@case
def a_capture_of_many_files_pauses_a_writer_only_briefly(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox, ThreadPoolExecutor(1) as pool:
        shell(client, sandbox, "mkdir many && cd many && for i in $(seq 20000); do echo $i > $i; done; sync -f .")
        client.write_file(sandbox, "/workspace/writer.py", WRITER)
        writer = pool.submit(client.execute, sandbox, ["python3", "writer.py"], 100_000)
        shell(client, sandbox, "until [ -s lines ]; do sleep 0.01; done")
        try:
            made = [client._request("POST", f"/sandbox/{sandbox}/checkpoints", {"name": str(number)}) for number in range(5)]
        finally:
            client.write_file(sandbox, "/workspace/end", "")
        lines, longest = writer.result().stdout.split()
        holds("all is captured", all(one["file_count"] >= 20002 for one in made), made)
        # Copying as many files takes far longer than this, on any disk and beside any neighbour.
        durations = sorted(one["copy_duration_ms"] for one in made)
        holds("captures copy nothing", durations[2] < 500, durations)
        holds("the writer hardly notices", int(lines) > 5 and float(longest) < 2, (lines, longest))


@case
def installed_packages_come_along_in_forks(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.write_files(sandbox, [
            {"path": "/workspace/js/package.json", "content": '{"name": "greeter", "version": "1.0.0", "main": "i.js", "bin": "i.js"}'},
            {"path": "/workspace/js/i.js", "content": '#!/usr/bin/env node\nconsole.log("greetings from node")\n'},
            {"path": "/workspace/py/greeter/__init__.py", "content": 'TEXT = "greetings from python"'},
            {"path": "/workspace/py/setup.py", "content": 'from setuptools import setup; setup(name="greeter", version="1", packages=["greeter"])'},
        ])
        # From local directories, so that no package index is needed.
        shell(client, sandbox, "npm install --global --offline --install-links ./js")
        shell(client, sandbox, "pip install --no-index --no-build-isolation --no-deps ./py; rm -r js py")
        checkpoint = client.create_checkpoint(sandbox, Options(name="installed")).id
    fork = client._request("POST", "/sandbox/create", {"checkpoint_id": checkpoint})["id"]
    equal("npm", shell(client, fork, "greeter"), "greetings from node\n")
    equal("pip", shell(client, fork, "cd /tmp && python3 -c 'import greeter; print(greeter.TEXT)'"), "greetings from python\n")
    client.delete(fork)


@case
def forks_asked_for_at_once_are_all_made(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox, ThreadPoolExecutor(6) as pool:
        client.write_file(sandbox, "/workspace/f", "origin")
        checkpoint = client.create_checkpoint(sandbox, Options(name="base")).id

        def fork(number: int) -> str:
            made = client._request("POST", "/sandbox/create", {"checkpoint_id": checkpoint, "timeout_seconds": 600})["id"]
            shell(client, made, f"cat f; echo {number} > f")
            return made

        forks = list(pool.map(fork, range(6)))
        equal("ids", len(set(forks)), 6)
        equal("each its own", [shell(client, made, "cat f") for made in forks], [f"{number}\n" for number in range(6)])
        equal("the source as it was", client.read_file(sandbox, "/workspace/f"), "origin")
        holds("deleted", all(pool.map(client.delete, forks)))


@case
def bad_checkpoint_calls_are_refused(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        unknown = "cp-00000000-0000-7000-8000-000000000000"
        error = refused(400, "invalid_request", lambda: client.create_checkpoint(sandbox, Options(name="")))
        equal("field", error.details["field"], "name")
        refused(400, "invalid_request", lambda: client.create_checkpoint(sandbox, Options(name="x", include_paths=["relative"])))
        refused(400, "invalid_request", lambda: client.create_checkpoint(sandbox, Options(name="x", exclude_paths=["/a/../b"])))
        refused(404, "not_found", lambda: client.restore_checkpoint(sandbox, unknown))
        refused(400, "invalid_request", lambda: client.restore_checkpoint(sandbox, "what"))
        refused(404, "not_found", lambda: client.get_checkpoint(unknown))
        refused(404, "not_found", lambda: client.clone_checkpoint(unknown, "x"))
        refused(404, "not_found", lambda: client.compare_checkpoints(unknown, unknown))
        refused(404, "not_found", lambda: client._request("POST", "/sandbox/create", {"snapshot_id": unknown.replace("cp-", "snap-")}))
        equal("nothing was created", [item.sandbox_id for item in client.list()], [sandbox])
        client.stop(sandbox)
        refused(409, "sandbox_not_running", lambda: client.create_checkpoint(sandbox, Options(name="stopped")))
        equal("nothing was made", client.list_checkpoints(), [])
