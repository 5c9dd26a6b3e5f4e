"""Tries one way out after another and prints `name<TAB>answer` for each.

An answer is `ok`, the name of an error number, `signal N`, or what was found. A probe that itself is wrong answers
`broken: ...`. Every probe runs in a process of its own, so that one that succeeds does not change the next.
"""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import select
import signal
import socket
import stat
import struct
import sys
import traceback

libc = ctypes.CDLL(None, use_errno=True)
is_x86 = platform.machine() == "x86_64"
PROBES = []

# Numbers on x86_64 and aarch64; None where the call does not exist.
NUMBERS = {
    "clone": (56, 220), "ptrace": (101, 117), "syslog": (103, 116), "personality": (135, 92), "vhangup": (153, 58),
    "modify_ldt": (154, None), "pivot_root": (155, 41), "adjtimex": (159, 171), "chroot": (161, 51), "acct": (163, 89),
    "settimeofday": (164, 170), "mount": (165, 40), "umount2": (166, 39), "swapon": (167, 224), "swapoff": (168, 225),
    "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None),
    "ioperm": (173, None), "init_module": (175, 105), "delete_module": (176, 106), "quotactl": (179, 60),
    "io_setup": (206, 0), "clock_settime": (227, 112), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "kexec_load": (246, 104), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "migrate_pages": (256, 238), "unshare": (272, 97), "move_pages": (279, 239), "perf_event_open": (298, 241),
    "fanotify_init": (300, 262), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "clock_adjtime": (305, 266), "setns": (308, 268), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "finit_module": (313, 273), "kexec_file_load": (320, 294), "bpf": (321, 280),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "fspick": (433, 433), "pidfd_open": (434, 434), "clone3": (435, 435),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "mount_setattr": (442, 442), "quotactl_fd": (443, 443),
    "memfd_secret": (447, 447), "statmount": (457, 457), "listmount": (458, 458), "unknown": (1000, 1000),
}


def probe(name):
    def add(function):
        PROBES.append((name, function))
        return function
    return add


def call(name, *arguments):
    """A raw system call; its error becomes an OSError."""
    number = name if isinstance(name, int) else NUMBERS[name][0 if is_x86 else 1]
    if number is None:
        raise OSError(errno.ENOSYS, name)
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *plain)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def calls(table):
    for name, number, *arguments in table:
        PROBES.append((name, lambda number=number, arguments=arguments: call(number, *arguments)))


def zeros(size=128):
    return ctypes.create_string_buffer(size)


NEW = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
       "pid": 0x20000000, "net": 0x40000000, "time": 0x80}
AT_FDCWD = -100

calls([
    ("mount tmpfs", "mount", b"x", b"/mnt", b"tmpfs", 0, 0),
    ("mount proc", "mount", b"x", b"/mnt", b"proc", 0, 0),
    ("mount sysfs", "mount", b"x", b"/mnt", b"sysfs", 0, 0),
    ("mount devtmpfs", "mount", b"x", b"/mnt", b"devtmpfs", 0, 0),
    ("mount cgroup", "mount", b"x", b"/mnt", b"cgroup", 0, b"memory"),
    ("mount cgroup2", "mount", b"x", b"/mnt", b"cgroup2", 0, 0),
    ("mount debugfs", "mount", b"x", b"/mnt", b"debugfs", 0, 0),
    ("mount binfmt_misc", "mount", b"x", b"/mnt", b"binfmt_misc", 0, 0),
    ("mount overlay", "mount", b"x", b"/mnt", b"overlay", 0, b"lowerdir=/etc:/usr"),
    ("mount fuse", "mount", b"x", b"/mnt", b"fuse", 0, b"fd=0,rootmode=40000,user_id=0,group_id=0"),
    ("mount bind", "mount", b"/", b"/mnt", 0, 4096, 0),
    ("mount remount /sys writable", "mount", b"x", b"/sys", 0, 32 | 4096, 0),
    ("mount remount / with devices and set-id", "mount", b"x", b"/", 0, 32, 0),
    ("mount make shared", "mount", 0, b"/", 0, 1 << 20, 0),
    ("umount /proc", "umount2", b"/proc", 2),
    ("umount /proc/kcore", "umount2", b"/proc/kcore", 0),
    ("umount /", "umount2", b"/", 2),
    ("pivot_root", "pivot_root", b"/", b"/mnt"),
    ("fsopen", "fsopen", b"tmpfs", 0),
    ("fsmount", "fsmount", 0, 0, 0),
    ("fspick", "fspick", AT_FDCWD, b"/", 0),
    ("open_tree clone", "open_tree", AT_FDCWD, b"/", 1),
    ("move_mount", "move_mount", AT_FDCWD, b"/tmp", AT_FDCWD, b"/mnt", 0),
    ("mount_setattr", "mount_setattr", AT_FDCWD, b"/", 0, zeros(), 32),
    ("statmount", "statmount", zeros(), zeros(), 128, 0),
    ("listmount", "listmount", zeros(), zeros(), 16, 0),
    ("clone3", "clone3", zeros(), 88),
    ("bpf map", "bpf", 0, zeros(), 72),
    ("bpf program", "bpf", 5, zeros(), 72),
    ("perf_event_open", "perf_event_open", zeros(), 0, -1, -1, 0),
    ("init_module", "init_module", zeros(), 128, b""),
    ("finit_module", "finit_module", 0, b"", 0),
    ("delete_module", "delete_module", b"loop", 0),
    ("kexec_load", "kexec_load", 0, 0, 0, 0),
    ("kexec_file_load", "kexec_file_load", 0, 0, 0, b"", 0),
    ("syslog read", "syslog", 3, zeros(), 128),
    ("syslog clear", "syslog", 5, 0, 0),
    ("io_uring_setup", "io_uring_setup", 8, zeros()),
    ("io_uring_enter", "io_uring_enter", 0, 1, 0, 0, 0, 0),
    ("io_uring_register", "io_uring_register", 0, 0, 0, 0),
    ("io_setup", "io_setup", 60000, zeros()),
    ("userfaultfd", "userfaultfd", 0),
    ("userfaultfd user mode only", "userfaultfd", 1),
    ("memfd_secret", "memfd_secret", 0),
    ("add_key", "add_key", b"user", b"n", b"v", 1, -2),
    ("request_key", "request_key", b"user", b"n", b"v", -2),
    ("keyctl session", "keyctl", 1, 0),
    ("keyctl describe user keys", "keyctl", 6, -4, zeros(), 128),
    ("fanotify_init", "fanotify_init", 0, 0),
    ("name_to_handle_at", "name_to_handle_at", AT_FDCWD, b"/etc/passwd", zeros(), zeros(), 0),
    ("open_by_handle_at", "open_by_handle_at", AT_FDCWD, zeros(), 0),
    ("settimeofday", "settimeofday", zeros(), 0),
    ("clock_settime", "clock_settime", 0, zeros()),
    ("reboot", "reboot", 0xFEE1DEAD, 0x28121969, 0x89ABCDEF, 0),
    ("swapon", "swapon", b"/etc/passwd", 0),
    ("swapoff", "swapoff", b"/etc/passwd"),
    ("acct", "acct", b"/tmp/acct"),
    ("quotactl", "quotactl", 0x800001 << 8, b"/dev/null", 0, zeros()),
    ("quotactl_fd", "quotactl_fd", 0, 0x800001 << 8, 0, zeros()),
    ("vhangup", "vhangup"),
    ("iopl", "iopl", 3),
    ("ioperm", "ioperm", 0x70, 2, 1),
    ("modify_ldt", "modify_ldt", 0, zeros(), 128),
    ("sethostname", "sethostname", b"other", 5),
    ("setdomainname", "setdomainname", b"other", 5),
    ("mbind", "mbind", 0, 0, 0, 0, 0, 0),
    ("set_mempolicy", "set_mempolicy", 0, 0, 0),
    ("migrate_pages", "migrate_pages", 0, 0, 0, 0),
    ("move_pages", "move_pages", 0, 0, 0, 0, 0, 0),
    ("personality with executable data", "personality", 0x400000),
    ("a call nobody knows", "unknown"),
])

for kind, flag in NEW.items():
    calls([(f"unshare {kind}", "unshare", flag)])
    if kind != "time":
        calls([(f"clone {kind}", "clone", flag | signal.SIGCHLD, 0, 0, 0, 0)])


@probe("setns")
def _():
    for kind in ["mnt", "pid", "net", "user", "uts", "ipc", "cgroup"]:
        with open(f"/proc/self/ns/{kind}") as namespace:
            try:
                call("setns", namespace.fileno(), 0)
                return f"entered {kind}"
            except OSError as error:
                if error.errno != errno.EPERM:
                    return f"{kind}: {errno.errorcode[error.errno]}"
    raise OSError(errno.EPERM, "all")


@probe("calls of the 32-bit interface")
def _():
    if not is_x86:
        os.kill(os.getpid(), signal.SIGSYS)
    import mmap
    # mov eax, 20 (getpid); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


@probe("calls of the x32 interface")
def _():
    return call(0x40000000 + 39) if is_x86 else call("unknown")


@probe("adjtimex set")
def _():
    buffer = zeros(256)
    struct.pack_into("I", buffer, 0, 0x4000)
    struct.pack_into("q", buffer, 88, 10000)
    call("adjtimex", buffer)


@probe("clock_adjtime set")
def _():
    buffer = zeros(256)
    struct.pack_into("I", buffer, 0, 0x0100)
    call("clock_adjtime", 0, buffer)


# Nodes, attributes, rights.

def device(kind, major, minor, path="/tmp/node"):
    os.mknod(path, kind | 0o666, os.makedev(major, minor))


probe("mknod block device")(lambda: device(stat.S_IFBLK, 7, 0))
probe("mknod memory device")(lambda: device(stat.S_IFCHR, 1, 1))
probe("mknod null device")(lambda: device(stat.S_IFCHR, 1, 3))
probe("mknod whiteout")(lambda: device(stat.S_IFCHR, 0, 0))
probe("mknod device in /dev/shm")(lambda: device(stat.S_IFCHR, 1, 1, "/dev/shm/node"))


@probe("mknodat block device")
def _():
    directory = os.open("/tmp", os.O_RDONLY)
    os.mknod("node", stat.S_IFBLK | 0o666, os.makedev(7, 0), dir_fd=directory)


@probe("overlay's own attributes")
def _():
    os.makedirs("/tmp/attributes", exist_ok=True)
    for name in ["opaque", "redirect", "metacopy", "origin", "overlay.opaque"]:
        try:
            os.setxattr("/tmp/attributes", f"trusted.overlay.{name}", b"y")
            return f"set {name}"
        except PermissionError:
            pass
    raise OSError(errno.EPERM, "all")


@probe("get more capabilities")
def _():
    header = struct.pack("Ii", 0x20080522, 0)
    everything = struct.pack("IIIIII", *[0xFFFFFFFF] * 2, 0, 0x1FF, 0x1FF, 0)
    if libc.capset(header, everything) < 0:
        raise OSError(ctypes.get_errno(), "capset")


@probe("ids outside of the own range")
def _():
    for change in [os.setuid, os.setgid, lambda number: os.setgroups([number])]:
        try:
            change(65536)
            return "taken"
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
    return "refused"


@probe("owners outside of the own range")
def _():
    open("/tmp/owned", "w").close()
    os.chown("/tmp/owned", 65536, 65536)


@probe("write own id map")
def _():
    with open("/proc/self/uid_map", "w") as file:
        file.write("0 0 1")


@probe("real-time scheduling")
def _():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@probe("a better priority")
def _():
    os.setpriority(os.PRIO_PROCESS, 0, -5)


@probe("protection from the memory killer")
def _():
    with open("/proc/self/oom_score_adj", "w", buffering=1) as file:
        file.write("-500\n")


@probe("more open files than the hard limit")
def _():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))


@probe("core files")
def _():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        pass
    return str(resource.getrlimit(resource.RLIMIT_CORE))


# Process 1.

probe("ptrace attach to process 1")(lambda: call("ptrace", 16, 1, 0, 0))
probe("ptrace seize process 1")(lambda: call("ptrace", 0x4206, 1, 0, 0))
probe("compare descriptors with process 1")(lambda: call("kcmp", os.getpid(), 1, 0, 0, 0))


def vector():
    buffer = ctypes.create_string_buffer(8)
    return struct.pack("QQ", ctypes.addressof(buffer), 8)


probe("read memory of process 1")(lambda: call("process_vm_readv", 1, vector(), 1, vector(), 1, 0))
probe("write memory of process 1")(lambda: call("process_vm_writev", 1, vector(), 1, vector(), 1, 0))


@probe("take a descriptor of process 1")
def _():
    call("pidfd_getfd", call("pidfd_open", 1, 0), 0, 0)


@probe("kill process 1")
def _():
    # From inside its own namespace nobody can; the call may say that it did.
    for number in [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV]:
        try:
            os.kill(1, number)
        except PermissionError:
            pass
    with open("/proc/1/stat") as file:
        return "alive" if file.read().split(") ")[1][0] in "SRD" else "dead or stopped"


for entry in ["root", "exe", "cwd", "ns/net", "fd/3"]:
    probe(f"follow /proc/1/{entry}")(lambda entry=entry: os.readlink(f"/proc/1/{entry}"))
for entry in ["environ", "mem", "maps", "auxv", "stack", "syscall", "io", "pagemap"]:
    probe(f"read /proc/1/{entry}")(lambda entry=entry: open(f"/proc/1/{entry}", "rb").read(16))
probe("write /proc/1/mem")(lambda: open("/proc/1/mem", "wb", buffering=0).write(b"x"))
probe("list /proc/1/fd")(lambda: os.listdir("/proc/1/fd"))
probe("list /proc/1/root/")(lambda: os.listdir("/proc/1/root/"))
probe("write /proc/1/oom_score_adj")(lambda: open("/proc/1/oom_score_adj", "w").write("1000"))


@probe("escape from a chroot")
def _():
    # The classic: a root below the working directory, then up. It ends at the sandbox's own root.
    before = os.stat("/")
    os.makedirs("/tmp/cage", exist_ok=True)
    up = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/cage")
    os.fchdir(up)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    after = os.stat("/")
    same = (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
    return "own root" if same else f"elsewhere: {os.listdir('/')}"


# Terminals.

def terminal(request, argument):
    master, slave = os.openpty()
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)
    fcntl.ioctl(slave, request, argument)


probe("type into a terminal")(lambda: terminal(0x5412, b"x"))
probe("paste into a terminal")(lambda: terminal(0x541C, b"\x03"))
probe("redirect the console")(lambda: terminal(0x541D, b""))


# Sockets.

SOCKETS = {
    "raw icmp": (2, 3, 1), "raw tcp": (2, 3, 6), "raw everything": (2, 3, 255), "raw icmp6": (10, 3, 58),
    "packet raw": (17, 3, 0x0300), "packet datagram": (17, 2, 0x0300), "packet of old": (2, 10, 0x0300),
    "vsock": (40, 1, 0), "crypto": (38, 5, 0), "key management": (15, 3, 2), "bluetooth": (31, 3, 1),
    "can": (29, 3, 1), "tipc": (30, 1, 0), "rds": (21, 5, 0), "xdp": (44, 3, 0), "smc": (43, 1, 0), "qrtr": (42, 2, 0),
    "sctp": (2, 1, 132), "sctp packets": (2, 5, 132), "dccp": (2, 6, 33), "udplite": (2, 2, 136), "mptcp": (2, 1, 262),
    "l2tp": (2, 2, 115), "netlink audit": (16, 3, 9), "netlink netfilter": (16, 3, 12), "netlink uevent": (16, 3, 15),
    "netlink xfrm": (16, 3, 6), "netlink generic": (16, 3, 16), "netlink connector": (16, 3, 11),
    "netlink crypto": (16, 3, 21),
}
for name, (family, kind, protocol) in SOCKETS.items():
    probe(f"socket {name}")(lambda f=family, k=kind, p=protocol: socket.socket(f, k, p))
probe("socket pair of packets")(lambda: socket.socketpair(17, 3, 0))


def option(level, name, value, kind=socket.SOCK_STREAM):
    socket.socket(socket.AF_INET, kind).setsockopt(level, name, value)


probe("option transparent")(lambda: option(0, 19, 1))
probe("option mark")(lambda: option(1, 36, 1))
probe("option priority")(lambda: option(1, 12, 7))
probe("option forced receive buffer")(lambda: option(1, 33, 1 << 30))
probe("option forced send buffer")(lambda: option(1, 32, 1 << 30))
probe("option tcp repair")(lambda: option(6, 19, 1))


def netlink(kind, body, flags=0):
    """A request over rtnetlink; its error as an OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as channel:
        channel.send(struct.pack("IHHII", 16 + len(body), kind, 5 | flags, 1, 0) + body)
        answer = channel.recv(4096)
        code = struct.unpack_from("i", answer, 16)[0]
        if code:
            raise OSError(-code, "netlink")


def attribute(kind, value):
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def index():
    return socket.if_nametoindex("eth0")


MAKE = 0x400 | 0x200
probe("route: make a link")(lambda: netlink(
    16, struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + attribute(3, b"d0\0") + attribute(18, attribute(1, b"dummy")), MAKE))
probe("route: take the link down")(lambda: netlink(16, struct.pack("BBHiII", 0, 0, 0, index(), 0, 1)))
probe("route: change the hardware address")(lambda: netlink(
    16, struct.pack("BBHiII", 0, 0, 0, index(), 0, 0) + attribute(1, b"\x02\0\0\0\0\x09")))
probe("route: move the link to another namespace")(lambda: netlink(
    16, struct.pack("BBHiII", 0, 0, 0, index(), 0, 0) + attribute(19, struct.pack("I", 1))))
probe("route: delete the link")(lambda: netlink(17, struct.pack("BBHiII", 0, 0, 0, index(), 0, 0)))
probe("route: add an address")(lambda: netlink(
    20, struct.pack("BBBBI", 2, 32, 0, 0, index()) + attribute(2, bytes([10, 213, 0, 1])), MAKE))
probe("route: add a route")(lambda: netlink(
    24, struct.pack("BBBBBBBBI", 2, 32, 0, 0, 254, 4, 0, 1, 0) + attribute(1, bytes([192, 0, 2, 1]))
    + attribute(4, struct.pack("I", index())), MAKE))
probe("route: add a neighbour")(lambda: netlink(
    28, struct.pack("BBHiHBB", 2, 0, 0, index(), 0x80, 0, 0) + attribute(1, bytes([10, 0, 0, 1]))
    + attribute(2, b"\x02\0\0\0\0\x09"), MAKE))
probe("route: add a rule")(lambda: netlink(32, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 1, 0), MAKE))
probe("route: add a queue")(lambda: netlink(
    36, struct.pack("BBHiIII", 0, 0, 0, index(), 0x10000, 0xFFFFFFFF, 0) + attribute(1, b"tbf\0"), MAKE))


def interface(request, rest=b""):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, request, struct.pack("16s24s", b"eth0", rest))


probe("interface: flags")(lambda: interface(0x8914))
probe("interface: address")(lambda: interface(0x8916, struct.pack("HH4s", 2, 0, bytes([10, 0, 0, 9]))))
probe("interface: size of packets")(lambda: interface(0x8922, struct.pack("i", 576)))
probe("interface: make a bridge")(lambda: interface(0x89A0))


@probe("interface: arp entry")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        address = struct.pack("HH4s8x", 2, 0, bytes([10, 0, 0, 1]))
        fcntl.ioctl(channel, 0x8955, address + struct.pack("H14s", 1, b"\x02\0\0\0\0\x09") + struct.pack("I16s16s", 4, b"", b"eth0"))


@probe("the agent's port: beside it")
def _():
    channel = socket.socket()
    channel.setsockopt(1, 2, 1)
    channel.setsockopt(1, 15, 1)
    channel.bind(("10.0.0.2", 4650))
    channel.listen()


@probe("the agent's port: over it")
def _():
    channel = socket.socket()
    channel.setsockopt(1, 2, 1)
    channel.setsockopt(1, 15, 1)
    channel.bind(("0.0.0.0", 4650))
    channel.listen()


# Files of the kernel.

WRITES = """
/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hostname /proc/sys/kernel/hotplug
/proc/sys/kernel/sysrq /proc/sys/kernel/panic /proc/sys/kernel/ns_last_pid /proc/sys/kernel/yama/ptrace_scope
/proc/sys/kernel/randomize_va_space /proc/sys/kernel/unprivileged_bpf_disabled /proc/sys/kernel/shmmax
/proc/sys/vm/drop_caches /proc/sys/vm/overcommit_memory /proc/sys/vm/mmap_min_addr /proc/sys/vm/panic_on_oom
/proc/sys/fs/file-max /proc/sys/fs/suid_dumpable /proc/sys/fs/protected_symlinks /proc/sys/fs/mqueue/queues_max
/proc/sys/fs/binfmt_misc/register /proc/sys/user/max_user_namespaces
/proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start
/proc/sys/net/ipv6/conf/all/disable_ipv6 /proc/sys/net/ipv4/conf/all/accept_source_route
/proc/sys/net/core/somaxconn /proc/sysrq-trigger /proc/irq/default_smp_affinity /proc/bus/pci/devices
/proc/mtrr /proc/acpi/wakeup /proc/scsi/scsi /proc/latency_stats /proc/timer_stats /proc/pressure/memory
/sys/kernel/uevent_helper /sys/kernel/mm/ksm/run /sys/kernel/profiling /sys/kernel/security/lsm
/sys/kernel/debug/tracing/trace_on /sys/kernel/tracing/trace_on /sys/fs/cgroup/release_agent
/sys/fs/cgroup/memory/release_agent /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/memory.limit_in_bytes
/sys/power/state /sys/power/disk /sys/bus/pci/rescan /sys/class/net/eth0/mtu /sys/class/net/lo/ifalias
/sys/module/kernel/parameters/consoleblank /sys/firmware/efi/vars/new_var /sys/devices/system/cpu/cpu0/online
/sys/block/loop0/loop/backing_file /sys/class/block/loop0/uevent
""".split()
READS = """
/proc/kmsg /proc/kpagecount /proc/kpageflags /proc/kpagecgroup /proc/slabinfo /proc/vmallocinfo /proc/pagetypeinfo
/proc/sys/kernel/cad_pid /sys/kernel/vmcoreinfo /sys/kernel/debug /sys/kernel/notes /sys/firmware/dmi/tables/DMI
/sys/devices/virtual/dmi/id/product_uuid /sys/class/dmi/id/board_serial /sys/fs/cgroup/cgroup.procs
/sys/block/loop0/loop/backing_file
""".split()
HIDDEN = """
/proc/kcore /proc/keys /proc/key-users /proc/kallsyms /proc/interrupts /proc/timer_list /proc/sched_debug
/proc/cmdline
""".split()
DEVICES = """
mem kmem port kmsg console tty0 tty1 ttyS0 vcs vda sda nvme0n1 dm-0 loop0 loop-control fuse kvm net/tun vhost-net
vfio/vfio btrfs-control rtc0 hpet cpu_dma_latency snapshot uinput input/event0 snd/seq dri/card0 mapper/control
hwrng nvram watchdog userfaultfd vsock autofs ppp initctl log shm/../mem
""".split()

for path in WRITES:
    probe(f"write {path}")(lambda path=path: os.write(os.open(path, os.O_WRONLY), b"1"))
for path in READS:
    probe(f"read {path}")(lambda path=path: os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 16))
for path in HIDDEN:
    probe(f"read {path}")(lambda path=path: f"{len(os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 16))} bytes")
for name in DEVICES:
    probe(f"open /dev/{name}")(lambda name=name: os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK))
probe("list /dev")(lambda: " ".join(sorted(os.listdir("/dev"))))
probe("make a file in /sys")(lambda: os.mkdir("/sys/fs/cgroup/child"))
probe("make a file in /proc")(lambda: os.mkdir("/proc/sys/child"))


def run(function):
    """The answer of one probe, from a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(20)
        try:
            result = function()
            answer = result if isinstance(result, str) else "ok"
        except OSError as error:
            answer = errno.errorcode.get(error.errno, f"broken: {error!r}")
        except ValueError as error:
            answer = "EPERM" if "not allowed" in str(error) or "exceeds" in str(error) else f"broken: {error!r}"
        except BaseException:
            answer = "broken: " + " ".join(traceback.format_exc().split())
        os.write(writer, answer.encode()[:3000])
        os._exit(0)
    os.close(writer)
    answer = b""
    # A grandchild that a successful clone made holds the pipe too.
    while select.select([reader], [], [], 25)[0]:
        part = os.read(reader, 4096)
        if not part:
            break
        answer += part
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return answer.decode()


def main():
    for name, function in PROBES:
        print(f"{name}\t{run(function)}", flush=True)


if __name__ == "__main__":
    main()
