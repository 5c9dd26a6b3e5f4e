"""Commands: strings and argument lists, results, streams, limits of time."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

from support import World, case, equal, holds, shell


@case
def a_string_is_a_shell_command(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        result = client.execute(sandbox, "echo 'a  b' > f && cat f | tr a-z A-Z; echo oops >&2; echo $((6 * 7))")
        equal("result", (result.exit_code, result.stdout, result.stderr), (0, "A  B\n42\n", "oops\n"))
        equal("truncated", result.output_truncated, False)
        # The closing word is the last byte of the command.
        shell(client, sandbox, "cat > /workspace/doc << 'EOF'\nfirst $HOME\nEOF")
        equal("here-document", client.read_file(sandbox, "/workspace/doc"), "first $HOME\n")


@case
def a_list_is_an_argument_vector_without_a_shell(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        arguments = ["a  b", "$HOME", "it's \"quoted\"", "*", ";ls", "é\n"]
        program = "import sys, json; print(json.dumps(sys.argv[1:]))"
        result = client.execute(sandbox, ["python3", "-c", program, *arguments])
        equal("exit code", result.exit_code, 0)
        equal("arguments", json.loads(result.stdout), arguments)
        result = client.execute(sandbox, ["node", "-e", 'console.log("Hello from sandbox!")'])
        equal("node", (result.exit_code, result.stdout), (0, "Hello from sandbox!\n"))


@case
def a_command_that_fails_is_a_result_and_not_an_error(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        result = client.execute(sandbox, "echo out; echo err >&2; exit 3")
        equal("result", (result.exit_code, result.stdout, result.stderr), (3, "out\n", "err\n"))
        equal("no such program", client.execute(sandbox, "no-such-program").exit_code, 127)
        holds("the list form too", client.execute(sandbox, ["no-such-program"]).exit_code in (126, 127))
        equal("killed by a signal", client.execute(sandbox, "kill -9 $$").exit_code, 137)


@case
def environment_and_directory_are_those_of_the_one_command(world: World) -> None:
    client = world.client()
    with world.sandbox(client, env={"NODE_ENV": "production", "KEPT": "1"}) as sandbox:
        print_both = "echo $NODE_ENV $KEPT; pwd"
        equal("of the sandbox", shell(client, sandbox, print_both), "production 1\n/workspace\n")
        result = client.execute(sandbox, print_both, env={"NODE_ENV": "test"}, cwd="/tmp")
        equal("of the command", result.stdout, "test 1\n/tmp\n")
        result = client.execute(sandbox, ["pwd"], working_dir="/app")
        equal("working_dir", result.stdout, "/app\n")
        equal("and not of the next", shell(client, sandbox, print_both), "production 1\n/workspace\n")


@case
def a_command_past_its_time_is_ended_with_124(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        began = time.monotonic()
        result = client.execute(sandbox, "echo begun; sleep 300 & sleep 300", timeout=1000)
        taken = time.monotonic() - began
        equal("result", (result.exit_code, result.stdout), (124, "begun\n"))
        holds("after a second, not after the sleep", 1 <= taken < 20, taken)
        equal("its children too", client.execute(sandbox, ["pgrep", "-x", "sleep"]).stdout, "")


@case
def a_stream_brings_output_as_it_comes_then_the_exit_code(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        events: list[tuple[str, object, float]] = []

        def note(kind: str):
            return lambda data: events.append((kind, data, time.monotonic()))

        client.execute_stream(
            sandbox,
            # The second line is written only after the first has reached the client and was acted upon.
            "echo first; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo second >&2; exit 5",
            on_stdout=lambda data: (note("stdout")(data), client.write_file(sandbox, "/workspace/go", "")),
            on_stderr=note("stderr"),
            on_exit=note("exit"),
            on_error=note("error"),
            timeout=60_000,
        )
        equal("events", [event[:2] for event in events], [("stdout", "first\n"), ("stderr", "second\n"), ("exit", 5)])


@case
def a_stream_carries_much_output_unharmed(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        output: list[str] = []
        codes: list[int] = []
        client.execute_stream(
            sandbox, ["python3", "-c", "for i in range(200000): print(i, 'é')"], on_stdout=output.append, on_exit=codes.append
        )
        equal("exit", codes, [0])
        holds("every line", "".join(output) == "".join(f"{i} é\n" for i in range(200000)), len("".join(output)))
        result = client.execute(sandbox, ["python3", "-c", "for i in range(200000): print(i, 'é')"])
        holds("the same in one piece", result.stdout == "".join(output), len(result.stdout))


@case
def a_stream_of_a_command_past_its_time_ends(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        codes: list[int] = []
        client.execute_stream(sandbox, "sleep 300", on_exit=codes.append, timeout=500)
        equal("exit", codes, [124])


@case
def commands_run_side_by_side_in_one_sandbox(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: client.execute(sandbox, f"echo {number}").stdout, range(40)))
        equal("each its own answer", results, [f"{number}\n" for number in range(40)])


@case
def the_default_template_has_the_programs_that_guides_call(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        programs = ["npm", "node", "python3", "python", "pip", "pip3", "git", "curl", "cat", "ls", "head"]
        missing = client.execute(sandbox, f"for p in {' '.join(programs)}; do command -v $p >/dev/null || echo $p; done")
        equal("missing programs", missing.stdout, "")
        holds("not root", shell(client, sandbox, "id -u") != "0\n")
        shell(client, sandbox, "touch /workspace/a /app/a ~/a")
