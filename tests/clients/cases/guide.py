"""The guides' own examples, with option objects where the published client wants them instead of keywords."""

from __future__ import annotations

import json

from stateset_sandbox import CreateCheckpointOptions as Options
from stateset_sandbox import CreateSandboxOptions

from support import World, case, equal, holds, shell

TRAIN = """
import json
rate = json.load(open("/workspace/config.json"))["learning_rate"]
json.dump({"rate": rate}, open("/workspace/model.json", "x"))
print("success" if rate < 0.05 else "diverged")
"""


@case
def quick_start_set_up_run_restore_and_try_again(world: World) -> None:
    client = world.client()
    sandbox = client.create(CreateSandboxOptions(timeout_seconds=600))
    # No package index is needed: what is listed is there already.
    client.write_file(sandbox.sandbox_id, "/workspace/requirements.txt", "pip\n")
    installed = client.execute(sandbox.sandbox_id, command=["pip", "install", "-r", "requirements.txt"])
    equal("pip install", installed.exit_code, 0)
    client.write_file(sandbox.sandbox_id, "/workspace/config.yaml", "debug: true")
    client.write_file(sandbox.sandbox_id, "/workspace/train.py", "print(open('/workspace/config.yaml').read())")
    client.write_file(sandbox.sandbox_id, "/workspace/__pycache__/x.pyc", "x")
    checkpoint = client.create_checkpoint(sandbox.sandbox_id, Options(
        name="Setup complete",
        description="All dependencies installed",
        include_paths=["/workspace"],
        exclude_paths=["/workspace/__pycache__", "/workspace/.venv"],
    ))
    equal("captured: requirements, config, program", checkpoint.file_count, 3)
    equal("first run", client.execute(sandbox.sandbox_id, command=["python", "train.py"]).stdout, "debug: true\n")
    client.write_file(sandbox.sandbox_id, "/workspace/made-by-the-run", "")
    client.restore_checkpoint(sandbox.sandbox_id, checkpoint.id)
    names = [entry["name"] for entry in client.list_files(sandbox.sandbox_id)]
    equal("restored", sorted(names), ["__pycache__", "config.yaml", "requirements.txt", "train.py"])
    client.write_file(sandbox.sandbox_id, "/workspace/config.yaml", "learning_rate: 0.01")
    equal("second run", client.execute(sandbox.sandbox_id, command=["python", "train.py"]).stdout, "learning_rate: 0.01\n")
    client.delete(sandbox.sandbox_id)


@case
def experiments_start_from_one_baseline(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox_id:
        client.write_file(sandbox_id, "/workspace/train.py", TRAIN)
        baseline = client.create_checkpoint(sandbox_id, Options(name="Baseline"))
        for learning_rate in [0.001, 0.01, 0.1]:
            client.restore_checkpoint(sandbox_id, baseline.id)
            client.write_file(sandbox_id, "/workspace/config.json", json.dumps({"learning_rate": learning_rate}))
            # The program refuses to run where an earlier run left its model.
            result = client.execute(sandbox_id, command=["python", "train.py"])
            equal("exit code", (result.exit_code, result.stderr), (0, ""))
            if "success" in result.stdout:
                client.create_checkpoint(sandbox_id, Options(name=f"LR={learning_rate}"))
        equal("kept", [item.name for item in client.list_checkpoints(sandbox_id)], ["LR=0.01", "LR=0.001", "Baseline"])


@case
def a_build_cache_is_found_by_name_and_used_elsewhere(world: World) -> None:
    client = world.client()

    def build(sandbox_id: str) -> str:
        # The client has no filter by name; the guide's call is the request that this sends.
        found = client._request("GET", "/checkpoints", params={"name": "deps-cache"})["checkpoints"]
        if found:
            client.restore_checkpoint(sandbox_id, found[0]["id"])
            return "restored"
        shell(client, sandbox_id, "mkdir -p node_modules/express && echo ok > node_modules/express/index.js")
        client.create_checkpoint(sandbox_id, Options(name="deps-cache", include_paths=["/workspace/node_modules"], include_env=False))
        return "installed"

    with world.sandbox(client) as first, world.sandbox(client) as second:
        client.write_file(second, "/workspace/own.js", "own")
        equal("first", build(first), "installed")
        equal("second", build(second), "restored")
        equal("its cache and its own", shell(client, second, "cat node_modules/express/index.js own.js"), "ok\nown")


@case
def a_failed_migration_is_rolled_back(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox_id:
        client.write_file(sandbox_id, "/workspace/data.db", "old schema")
        client.write_file(sandbox_id, "/workspace/migrate.py", "open('data.db', 'w').write('half'); raise SystemExit('broken')")
        before = client.create_checkpoint(sandbox_id, Options(name="Pre-migration", description="Before database migration"))
        result = client.execute(sandbox_id, command=["python", "migrate.py"])
        equal("it fails", (result.exit_code, result.stderr), (1, "broken\n"))
        equal("half done", client.read_file(sandbox_id, "/workspace/data.db"), "half")
        client.restore_checkpoint(sandbox_id, before.id)
        equal("rolled back", client.read_file(sandbox_id, "/workspace/data.db"), "old schema")


@case
def a_template_checkpoint_prepares_a_new_sandbox(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox_id:
        shell(client, sandbox_id, "mkdir -p app/src && echo react > app/src/main.js && chmod 755 app/src/main.js")
        template = client.create_checkpoint(sandbox_id, Options(name="React App Template", description="Fresh React app"))
    # The sandbox that it was made of is gone by now.
    with world.sandbox(client) as fresh:
        client.restore_checkpoint(fresh, template.id)
        equal("prepared", shell(client, fresh, "cat app/src/main.js; stat -c %a app/src/main.js"), "react\n755\n")


@case
def only_the_five_newest_checkpoints_are_kept(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox_id:
        client.write_files(sandbox_id, [{"path": f"/workspace/{p}", "content": p} for p in ("a.py", "x.log", "dist/d", ".cache/c")])
        for number in range(7):
            made = client.create_checkpoint(sandbox_id, Options(
                name=f"After data preprocessing - cleaned nulls ({number})",
                exclude_paths=["/workspace/node_modules", "/workspace/.cache", "/workspace/dist", "/workspace/*.log"],
            ))
            equal("only the source", made.file_count, 1)
        for checkpoint in client.list_checkpoints()[5:]:
            holds("deleted", client.delete_checkpoint(checkpoint.id))
        left = [item.name[-3:] for item in client.list_checkpoints()]
        equal("left", left, ["(6)", "(5)", "(4)", "(3)", "(2)"])


@case
def basic_usage_of_the_production_guide(world: World) -> None:
    client = world.client()
    sandbox = client.create(CreateSandboxOptions(timeout_seconds=300, cpus="1", memory="1Gi", env={"NODE_ENV": "production"}))
    equal("expires after five minutes", (sandbox.expires_at - sandbox.created_at).total_seconds(), 300)
    result = client.execute(sandbox.sandbox_id, ["node", "-e", 'console.log("Hello from sandbox!", process.env.NODE_ENV)'])
    equal("node", (result.stdout, result.exit_code), ("Hello from sandbox! production\n", 0))
    client.write_files(sandbox.sandbox_id, [{"path": "/workspace/app.js", "content": 'console.log("app");'}])
    equal("file", client.read_file(sandbox.sandbox_id, "/workspace/app.js"), 'console.log("app");')
    first = client.create_checkpoint(sandbox.sandbox_id, Options(name="after-npm-install", description="All dependencies installed"))
    equal("restore", client.restore_checkpoint(sandbox.sandbox_id, first.id, restore_files=True, restore_env=True, overwrite=True), True)
    clone = client.clone_checkpoint(first.id, "feature-branch-base")
    equal("nothing changed", client.compare_checkpoints(first.id, clone.id)["diff"]["modified"], [])
    equal("stop", client.stop(sandbox.sandbox_id), True)
