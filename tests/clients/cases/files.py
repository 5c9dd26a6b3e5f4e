"""Files: written, read, listed, matched, moved, copied, deleted."""

from __future__ import annotations

import base64
import random

from support import World, case, equal, holds, refused, shell


@case
def what_is_written_is_read(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        text = 'line one\nümläut 🦀 "quoted" \\ \t end without newline'
        client.write_file(sandbox, "/workspace/deep/er/note.txt", text)
        equal("read", client.read_file(sandbox, "/workspace/deep/er/note.txt"), text)
        equal("inside too", shell(client, sandbox, "cat deep/er/note.txt"), text)
        client.write_files(sandbox, [{"path": f"/workspace/many/{n}", "content": str(n)} for n in range(50)])
        equal("many at once", shell(client, sandbox, "cat many/* | wc -c"), "90\n")
        client.write_file(sandbox, "/workspace/deep/er/note.txt", "")
        equal("overwritten with nothing", client.read_file(sandbox, "/workspace/deep/er/note.txt"), "")
        raw = client.read_file_raw(sandbox, "/workspace/many/7")
        equal("raw", (raw.path, raw.size, base64.b64decode(raw.content)), ("/workspace/many/7", 1, b"7"))


@case
def bytes_and_big_files_come_unharmed(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        shell(client, sandbox, "python3 -c \"open('all', 'wb').write(bytes(range(256)) * 4)\"")
        raw = client.read_file_raw(sandbox, "/workspace/all")
        equal("all bytes", (base64.b64decode(raw.content), raw.size), (bytes(range(256)) * 4, 1024))
        text = "".join(random.Random(1).choices("abcdefghij\n", k=8_000_000))
        client.write_file(sandbox, "/workspace/big", text)
        holds("8 MB there and back", client.read_file(sandbox, "/workspace/big") == text)


@case
def directories_are_listed_and_matched(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.write_files(sandbox, [{"path": f"/workspace/{p}", "content": p} for p in ("a.py", "src/b.py", "src/sub/c.txt")])
        shell(client, sandbox, "ln -s /etc/passwd link")
        flat = {entry["path"]: entry for entry in client.list_files(sandbox)}
        equal("one level", sorted(flat), ["/workspace/a.py", "/workspace/link", "/workspace/src"])
        kinds = [flat[f"/workspace/{name}"]["type"] for name in ("a.py", "link", "src")]
        equal("kinds", kinds, ["file", "symlink", "directory"])
        equal("name and size", (flat["/workspace/a.py"]["name"], flat["/workspace/a.py"]["size"]), ("a.py", 4))
        holds("time", "T" in flat["/workspace/a.py"]["modified_at"], flat["/workspace/a.py"])
        whole = [entry["path"] for entry in client.list_files(sandbox, "/workspace/src", recursive=True)]
        equal("recursive", sorted(whole), ["/workspace/src/b.py", "/workspace/src/sub", "/workspace/src/sub/c.txt"])

        def matched(pattern: str) -> list[str]:
            return sorted(entry["path"] for entry in client.glob(sandbox, pattern))

        equal("** crosses directories", matched("**/*.py"), ["/workspace/a.py", "/workspace/src/b.py"])
        equal("* does not", matched("/workspace/*.py"), ["/workspace/a.py"])
        equal("nothing", matched("/workspace/*.rs"), [])


@case
def files_are_moved_copied_and_deleted(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        client.mkdir(sandbox, "/workspace/new/deep")
        equal("mkdir", shell(client, sandbox, "test -d new/deep && echo yes"), "yes\n")
        refused(404, "not_found", lambda: client.mkdir(sandbox, "/workspace/no/parent", recursive=False))
        client.write_file(sandbox, "/workspace/new/deep/f", "content")
        client.move_file(sandbox, "/workspace/new/deep/f", "/workspace/moved")
        equal("moved", shell(client, sandbox, "cat moved; ls new/deep"), "content")
        client.copy_file(sandbox, "/workspace/moved", "/workspace/copied")
        equal("copied", shell(client, sandbox, "cat moved copied"), "contentcontent")
        client.write_file(sandbox, "/workspace/new/deep/g", "g")
        client.copy_file(sandbox, "/workspace/new", "/workspace/tree")
        equal("a tree", shell(client, sandbox, "cat tree/deep/g"), "g")
        client.delete_file(sandbox, "/workspace/copied")
        refused(404, "not_found", lambda: client.read_file(sandbox, "/workspace/copied"))
        error = refused(400, "invalid_request", lambda: client.delete_file(sandbox, "/workspace/tree"))
        holds("it says that there is something in it", "not empty" in error.message, error.message)
        client.delete_file(sandbox, "/workspace/tree", recursive=True)
        equal("what is left", shell(client, sandbox, "ls"), "moved\nnew\n")


@case
def bad_paths_are_refused(world: World) -> None:
    client = world.client()
    with world.sandbox(client) as sandbox:
        refused(404, "not_found", lambda: client.read_file(sandbox, "/workspace/nothing"))
        refused(404, "not_found", lambda: client.list_files(sandbox, "/workspace/nothing"))
        refused(404, "not_found", lambda: client.delete_file(sandbox, "/workspace/nothing"))
        for path in ("../../etc/passwd", "/workspace/../../../etc/passwd", "relative", ""):
            refused(400, "invalid_request", lambda: client.read_file(sandbox, path))
            refused(400, "invalid_request", lambda: client.write_file(sandbox, path, "x"))
            refused(400, "invalid_request", lambda: client.move_file(sandbox, "/workspace", path))
