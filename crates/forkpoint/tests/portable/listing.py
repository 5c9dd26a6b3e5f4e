"""Prints what is below a directory, one line an entry: everything that an archive must carry, in a form that is the
same inside a sandbox and on the host. Mounts and the files that each sandbox has of its own are left out."""
import hashlib
import os
import stat
import sys

root = os.fsencode(sys.argv[1])
OUTSIDE = {b"dev", b"proc", b"sys", b"run", b"etc/hosts", b"etc/resolv.conf", b"etc/hostname", b"etc/machine-id"}
names = {}
lines = []


def attributes(path):
    found = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        # What a security module of the host says is no part of the file, and the marks of an overlay none of the tree.
        if name.startswith("user.") or name == "security.capability":
            found.append("%s=%s" % (name, os.getxattr(path, name, follow_symlinks=False).hex()))
    return ",".join(found)


def entry(relative):
    path = os.path.join(root, relative)
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    what = ""
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            what = "%d %s" % (status.st_size, hashlib.file_digest(file, "md5").hexdigest())
    elif kind == stat.S_IFLNK:
        what = repr(os.readlink(path))
    if kind != stat.S_IFDIR and status.st_nlink > 1:
        first = names.setdefault((status.st_dev, status.st_ino), relative)
        if first != relative:
            what += " is %r" % first
    line = "%r %o %d:%d %d %s [%s]" % (
        relative, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, what, attributes(path),
    )
    lines.append(line)
    return kind == stat.S_IFDIR


def walk(relative):
    for name in sorted(os.listdir(os.path.join(root, relative))):
        below = os.path.join(relative, name)
        if below in OUTSIDE or stat.S_ISSOCK(os.lstat(os.path.join(root, below)).st_mode):
            continue
        if entry(below):
            walk(below)


walk(b"")
print("\n".join(lines))
