"""Runs in a sandbox as root: applies steps to a tree, and shows the tree. What it does is modelled in tree.rs."""
import hashlib, json, os, shutil, stat, sys

TOP = "/workspace/t"


def noise(seed, length):
    blocks = (hashlib.sha256(f"{seed}:{n}".encode()).digest() for n in range((length + 31) // 32))
    return b"".join(blocks)[:length]


def times(path, ns):
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def apply(step):
    path, ns = step["path"], step["ns"]
    touched = [os.path.dirname(path)]
    what = step["do"]
    if what == "put":
        remove(path)
        with open(path, "wb") as file:
            file.write(noise(step["seed"], step["length"]))
            file.truncate(step["size"])
        os.chown(path, step["uid"], step["gid"])
        os.chmod(path, step["mode"])
        times(path, ns)
    elif what == "append":
        with open(path, "ab") as file:
            file.write(noise(step["seed"], step["length"]))
        times(path, ns)
        touched = []
    elif what == "mkdir":
        os.mkdir(path)
        os.chmod(path, step["mode"])
        times(path, ns)
    elif what == "remove":
        remove(path)
    elif what == "symlink":
        remove(path)
        os.symlink(step["target"], path)
        times(path, ns)
    elif what == "link":
        os.link(path, step["to"], follow_symlinks=False)
        touched = [os.path.dirname(step["to"])]
    elif what == "rename":
        remove(step["to"])
        os.rename(path, step["to"])
        touched.append(os.path.dirname(step["to"]))
    elif what == "own":
        os.chown(path, step["uid"], step["gid"])
        os.chmod(path, step["mode"])
        touched = []
    elif what == "attribute":
        os.setxattr(path, step["name"], bytes.fromhex(step["value"]))
        touched = []
    for folder in touched:
        times(folder or ".", ns)


seen = {}


def show(path):
    at = os.lstat(path)
    line = [path.encode().hex(), oct(stat.S_IFMT(at.st_mode))]
    if stat.S_ISLNK(at.st_mode):
        line += [at.st_uid, at.st_gid, at.st_mtime_ns, os.readlink(path)]
    else:
        line += [oct(stat.S_IMODE(at.st_mode)), at.st_uid, at.st_gid, at.st_mtime_ns]
        line += [f"{name}={os.getxattr(path, name).hex()}" for name in sorted(os.listxattr(path))]
    if stat.S_ISREG(at.st_mode):
        with open(path, "rb") as file:
            line += [at.st_size, hashlib.sha256(file.read()).hexdigest()]
    if not stat.S_ISDIR(at.st_mode):
        line.append(seen.setdefault((at.st_dev, at.st_ino), path).encode().hex())
    print(*line, sep="|")
    if stat.S_ISDIR(at.st_mode):
        for name in sorted(os.listdir(path), key=str.encode):
            show(os.path.join(path, name) if path != "." else name)


steps = json.loads(sys.argv[1])
os.umask(0o022)
if steps:
    os.makedirs(TOP, exist_ok=True)
if os.path.isdir(TOP):
    os.chdir(TOP)
    for one in steps:
        apply(one)
    show(".")
