"""Tries to reach each `protocol address port` of the first argument, all at once; one line of JSON for each."""

import json
import socket
import struct
import sys
import threading
import time

TIMEOUT = 3


def reach(protocol, address, port):
    if protocol == "unix":
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            return True
    if protocol == "routed":
        # Loose source route: by the gateway, to the address.
        with socket.socket() as channel:
            channel.settimeout(TIMEOUT)
            stop = socket.inet_aton(address)
            channel.setsockopt(socket.IPPROTO_IP, 4, struct.pack("BBB4s4sB", 131, 11, 4, stop, stop, 0))
            channel.connect(("10.0.0.1", port))
            return True
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family, _, _, _, target = socket.getaddrinfo(address, port, type=kind)[0]
    with socket.socket(family, kind) as channel:
        channel.settimeout(TIMEOUT)
        if protocol == "udp":
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            channel.sendto(b"from a sandbox", target)
            # Whoever is there hears it; nobody must answer.
            return bool(channel.recv(64))
        channel.connect(target)
        return True


def attempt(target):
    protocol, address, port = target.split(" ")
    started = time.monotonic()
    try:
        reached, error = reach(protocol, address, int(port)), None
    except OSError as problem:
        reached, error = False, str(problem)
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"target": target, "reached": reached, "error": error, "seconds": seconds}) + "\n", end="", flush=True)


threads = [threading.Thread(target=attempt, args=(target,)) for target in sys.argv[1].splitlines()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
