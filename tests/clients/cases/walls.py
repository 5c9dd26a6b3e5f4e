"""Two sandboxes side by side: what one does, the other neither sees nor feels."""

from __future__ import annotations

import socket
import uuid
from urllib.parse import urlsplit

from stateset_sandbox.errors import SandboxApiError

from support import World, case, equal, holds, shell

CONNECT = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(target, "reached")
    except OSError:
        pass
"""
LISTEN = """
import socket
server = socket.create_server(("0.0.0.0", 8000))
open("/workspace/listening", "w").close()
while True:
    server.accept()[0].sendall(b"here")
"""


@case
def neighbours_see_nothing_of_each_other(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as one, world.sandbox(client) as two:
        mark = f"mark-{uuid.uuid4().hex}"
        shell(client, one, f"for d in /tmp /workspace /dev/shm; do echo {mark} > $d/{mark}; done; exec -a {mark} sleep 300 >/dev/null 2>&1 &")
        look = "grep -sal '%s' /proc/[0-9]*/cmdline | wc -l; ls /tmp /workspace /dev/shm | grep -c '%s'"
        # The brackets keep the look itself from being found.
        pattern = (f"[m]{mark[1:]}",) * 2
        equal("seen by itself", shell(client, one, look % pattern), "1\n3\n")
        result = client.execute(two, look % pattern)
        equal("seen by the neighbour", result.stdout, "0\n0\n")
        names = [shell(client, sandbox, "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id | head -n 1") for sandbox in (one, two)]
        holds("names of their own", names[0] != names[1], names)
        equal("the first process is the sandbox's own", shell(client, two, "cat /proc/1/comm"), "forkpoint-agent\n")


@case
def neighbours_and_the_host_are_out_of_reach(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as one, world.sandbox(client) as two, socket.create_server(("0.0.0.0", 0)) as host:
        client.write_file(one, "/workspace/listen.py", LISTEN)
        shell(client, one, "python3 listen.py >/dev/null 2>&1 & until [ -e listening ]; do sleep 0.01; done")
        address = client.get(one).pod_ip
        # The host reaches it, so that there is something to reach.
        with socket.create_connection((address, 8000), timeout=10) as connection:
            equal("from the host", connection.recv(4), b"here")
        client.write_file(two, "/workspace/connect.py", CONNECT)
        port = host.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            host_end = probe.getsockname()[0]
        targets = [f"{address}:8000", f"{host_end}:{port}", f"10.0.0.1:{port}", f"127.0.0.1:{port}", "169.254.169.254:80"]
        targets += [f"{name}:{urlsplit(world.base_url).port}" for name in ("127.0.0.1", "10.0.0.1", host_end)]
        equal("reached from the neighbour", client.execute(two, ["python3", "connect.py", *targets]).stdout, "")
        equal("and its own loopback works", shell(client, one, "python3 -c \"import socket; print(socket.create_connection(('127.0.0.1', 8000)).recv(4))\""), "b'here'\n")


@case
def what_root_changes_in_one_sandbox_is_not_in_the_next(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as one:
        body = {"command": "rm -rf /usr/bin/git /etc/motd && echo changed > /etc/issue && id -u", "user": "root"}
        result = client._request("POST", f"/sandbox/{one}/execute", body)
        equal("root may", (result["exit_code"], result["stdout"]), (0, "0\n"))
        equal("here it is gone", client.execute(one, "git --version").exit_code, 127)
        with world.sandbox(client) as two:
            shell(client, two, "git --version && ! grep -q changed /etc/issue")


@case
def a_fork_bomb_and_a_memory_hog_leave_the_neighbour_alone(world: World) -> None:
    client, neighbour = world.client(), world.client()
    with world.sandbox(client, cpus="0.3", memory="256Mi") as wild, world.sandbox(neighbour) as calm:
        shell(client, wild, "(b() { b | b & }; b) >/dev/null 2>&1 &")
        for _ in range(10):
            equal("the neighbour answers", shell(neighbour, calm, "echo calm"), "calm\n")
        try:
            hog = client.execute(wild, ["python3", "-c", "b = bytearray(1 << 30)"], timeout=20_000)
            holds("the hog fails", hog.exit_code != 0, hog)
        except SandboxApiError as error:
            # No process can be had while the bomb has them all.
            equal("refused", (error.status_code, error.code), (409, "sandbox_exhausted"))
        used = shell(neighbour, calm, "python3 -c 'b = bytearray(300 << 20); print(len(b))'")
        equal("the neighbour has its own memory", used, f"{300 << 20}\n")
