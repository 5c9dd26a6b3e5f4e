"""Leaves one of everything that a layer can hold."""
import os
import shutil
import sys

sys.setrecursionlimit(5000)
os.umask(0)
os.makedirs("/work/empty", 0o700)
os.chdir("/work")


def write(name, content, mode=0o644):
    with open(name, "wb") as file:
        file.write(content)
    os.chmod(name, mode)


write("plain", b"plain\n")
write("setuid", b"#!/bin/sh\n", 0o6755)
write("secret", b"mine\n", 0o600)
os.chown("secret", 1000, 1234)
os.mkdir("sticky", 0o1777)
write(b"not \xff utf-8", b"bytes\n")
write("line\nfeed", b"two lines\n")
long = "l" * 250
os.makedirs("/".join(["deep" * 20] * 6))
write("/".join(["deep" * 20] * 6) + "/" + long, b"far\n")
os.symlink("plain", "link")
os.symlink("/" + "t" * 300, "long link")
os.symlink("../../../../etc/passwd", "link out")
os.mkfifo("pipe", 0o620)
os.link("plain", "plain again")
os.makedirs("zz")
os.link("plain", "zz/plain once more")
os.link("link", "zz/linked link")
with open("sparse", "wb") as file:
    file.truncate(300 << 20)
    file.seek(100 << 20)
    file.write(b"in the middle")
    file.seek((200 << 20) + 12345)
    file.write(os.urandom(200000))
with open("holes only", "wb") as file:
    file.truncate(50 << 20)
with open("written zeros", "wb") as file:
    file.write(b"\0" * (1 << 20) + b"end")
os.setxattr("plain", "user.note", b"\0binary\xff=")
os.setxattr("plain", "user.a=b", b"equals in its name")
os.setxattr("sticky", "user.of directory", b"yes")
try:
    # Version 3: as a user namespace's root sets them.
    os.setxattr("setuid", "security.capability", bytes.fromhex("0000000200040000000000000000000000000000"))
except OSError as error:
    print("no capabilities here:", error, file=sys.stderr)
os.utime("plain", ns=(1, 1_234_567_890_123_456_789))
os.utime("secret", ns=(0, -5_500_000_000))
os.utime("link", ns=(0, 999), follow_symlinks=False)
os.utime("pipe", ns=(0, 86_400_000_000_001))

# Changes of the template: a file and a directory less, a mode, a directory in the place of a file and the other way
# round, one replaced, one renamed with what is in it, and one renamed onto the name of another.
os.remove("/etc/issue")
shutil.rmtree("/usr/share/doc/bash" if os.path.exists("/usr/share/doc/bash") else "/usr/share/common-licenses")
os.chmod("/etc/profile", 0o600)
os.remove("/etc/issue.net")
os.mkdir("/etc/issue.net")
write("/etc/issue.net/below", b"a file was here\n")
shutil.rmtree("/etc/skel")
write("/etc/skel", b"a directory was here\n")
shutil.rmtree("/etc/default")
os.mkdir("/etc/default", 0o750)
write("/etc/default/new", b"alone here\n")
os.rename("/usr/share/perl5", "/usr/share/moved")
write("/usr/share/moved/added", b"to what was moved\n")
removed = sorted(name for name in os.listdir("/usr/share/moved") if name.endswith(".pm"))
if removed:
    os.remove("/usr/share/moved/" + removed[0])
os.rename("/etc/security", "/etc/was-security")
os.rename("/etc/pam.d", "/etc/security")
write("/etc/security/own", b"on top of both\n")
