"""Sandboxes: create, look at, extend, fork, stop, delete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stateset_sandbox import CreateSandboxOptions, SandboxStatus

from support import World, case, equal, holds, refused, shell


@case
def a_sandbox_is_created_with_defaults(world: World) -> None:
    client = world.client()
    created = client.create()
    equal("status", created.status, SandboxStatus.RUNNING)
    holds("ids", created.sandbox_id and created.org_id and created.session_id, created)
    holds("address", created.pod_ip, created)
    equal("lifetime by default", created.expires_at - created.created_at, timedelta(hours=1))
    holds("created now", abs(datetime.now(UTC) - created.created_at) < timedelta(seconds=30), created.created_at)
    equal("get tells the same", client.get(created.sandbox_id), created)
    equal("so does the list", client.list(), [created])
    equal("workspace", shell(client, created.sandbox_id, "ls -A /workspace; pwd"), "/workspace\n")
    equal("delete", client.delete(created.sandbox_id), True)
    equal("gone from the list", client.list(), [])
    refused(404, "not_found", lambda: client.get(created.sandbox_id))
    refused(404, "not_found", lambda: client.get_status(created.sandbox_id))
    refused(404, "not_found", lambda: client.execute(created.sandbox_id, "true"))
    refused(404, "not_found", lambda: client.delete(created.sandbox_id))


@case
def options_of_create_take_effect(world: World) -> None:
    client = world.client()
    options = {"cpus": "0.5", "memory": "192Mi", "timeout_seconds": 600, "env": {"GREETING": "hällo $x"}, "template": "default"}
    created = client.create(CreateSandboxOptions(**options, isolation="container"))
    sandbox = created.sandbox_id
    equal("told", (created.cpus, created.memory), ("500m", "192Mi"))
    equal("lifetime", created.expires_at - created.created_at, timedelta(seconds=600))
    equal("environment", shell(client, sandbox, 'printf %s "$GREETING"'), "hällo $x")
    hog = client.execute(sandbox, ["python3", "-c", "b = bytearray(400 << 20); print('got it')"])
    holds("memory is limited", hog.exit_code != 0 and "got it" not in hog.stdout, hog)
    equal("and the sandbox lives", shell(client, sandbox, "echo yes"), "yes\n")
    client.delete(sandbox)


@case
def bad_options_of_create_are_refused_by_name(world: World) -> None:
    client = world.client()
    for field, options in {
        "template": {"template": "no-such-template"},
        "cpus": {"cpus": "many"},
        "memory": {"memory": "1 elephant"},
        "timeout_seconds": {"timeout_seconds": -1},
        "env": {"env": {"A=B": "c"}},
        "image": {"image": "ubuntu"},
    }.items():
        error = refused(400, "invalid_request", lambda: client.create(CreateSandboxOptions(**options)))
        holds("names the field", error.details.get("field", "").startswith(field), error.details)
    refused(409, "isolation_unavailable", lambda: client.create(CreateSandboxOptions(isolation="microvm")))
    equal("nothing was made", client.list(), [])


@case
def status_and_extend_tell_the_lifetime(world: World) -> None:
    client = world.client()
    with world.sandbox(client, timeout_seconds=600) as sandbox:
        status = client.get_status(sandbox)
        equal("status", (status.sandbox_id, status.status), (sandbox, SandboxStatus.RUNNING))
        before = client.get(sandbox).expires_at
        equal("expiry", datetime.fromisoformat(status.expires_at), before)
        extended = client.extend(sandbox, 300)
        equal("later by what was asked", extended.expires_at - before, timedelta(seconds=300))
        equal("and kept", client.get(sandbox).expires_at, extended.expires_at)
        refused(400, "invalid_request", lambda: client.extend(sandbox, -5))


@case
def a_stopped_sandbox_is_kept_and_runs_nothing(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.write_file(sandbox, "/workspace/kept", "yes")
        equal("stop", client.stop(sandbox), True)
        equal("status", client.get_status(sandbox).status, SandboxStatus.TERMINATED)
        equal("get", client.get(sandbox).status, SandboxStatus.TERMINATED)
        equal("listed", [(item.sandbox_id, item.status) for item in client.list()], [(sandbox, SandboxStatus.TERMINATED)])
        error = refused(409, "sandbox_not_running", lambda: client.execute(sandbox, "true"))
        holds("tells the state", "stopped" in error.message, error.message)
        equal("stop again", client.stop(sandbox), True)


@case
def a_fork_has_the_state_and_a_life_of_its_own(world: World) -> None:
    client = world.client()
    with world.sandbox(client, env={"SECRET": "s"}, cpus="0.75", memory="384Mi", timeout_seconds=1200) as parent:
        client.write_file(parent, "/workspace/state", "shared")
        plain = client.fork(parent)
        equal("parent", plain["parent_id"], parent)
        optioned = client.fork(
            parent, cpus="0.5", memory="256Mi", timeout_seconds=900, include_env=False,
            checkpoint_name="before the fork", checkpoint_description="kept",
        )
        for fork in (plain, optioned):
            equal("state", client.read_file(fork["forked_id"], "/workspace/state"), "shared")
        client.write_file(plain["forked_id"], "/workspace/state", "changed")
        equal("parent is as it was", client.read_file(parent, "/workspace/state"), "shared")
        equal("so is the other", client.read_file(optioned["forked_id"], "/workspace/state"), "shared")
        equal("environment comes along", shell(client, plain["forked_id"], "echo $SECRET"), "s\n")
        equal("or stays", shell(client, optioned["forked_id"], "echo $SECRET"), "\n")
        for fork, wanted in {plain["forked_id"]: ("750m", "384Mi", 1200), optioned["forked_id"]: ("500m", "256Mi", 900)}.items():
            forked = client.get(fork)
            limits = (forked.cpus, forked.memory, (forked.expires_at - forked.created_at).total_seconds())
            equal("limits: the parent's, or those asked for", limits, wanted)
        checkpoint = client.get_checkpoint(optioned["checkpoint_id"])
        equal("its checkpoint", (checkpoint.name, checkpoint.description), ("before the fork", "kept"))
        holds("names of their own", len({shell(client, s, "hostname") for s in (parent, plain["forked_id"], optioned["forked_id"])}) == 3)
        equal("a fork goes", client.delete(plain["forked_id"]), True)
        equal("the parent stays", shell(client, parent, "echo yes"), "yes\n")
        client.delete(optioned["forked_id"])


@case
def a_sandbox_ends_when_its_time_is_over(world: World) -> None:
    client = world.client()
    with world.sandbox(client, timeout_seconds=2) as sandbox:
        streamed: list[object] = []
        # Ends when the sandbox does, which is what is waited for.
        client.execute_stream(sandbox, "sleep 60", on_exit=streamed.append, on_error=streamed.append)
        holds("the command ended with the sandbox", streamed != [0], streamed)
        # The row follows the processes within moments.
        deadline = datetime.now(UTC) + timedelta(seconds=20)
        while client.get_status(sandbox).status != SandboxStatus.TERMINATED and datetime.now(UTC) < deadline:
            pass
        equal("status", client.get_status(sandbox).status, SandboxStatus.TERMINATED)
        holds("not before its time", datetime.now(UTC) >= client.get(sandbox).expires_at)
