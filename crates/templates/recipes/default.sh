#!/bin/sh
# Runs once on the host, with the new root as $1, after all packages are configured.
set -eu
root=$1

# The user that commands run as unless asked otherwise.
chroot "$root" groupadd --gid 1000 sandbox
chroot "$root" useradd --uid 1000 --gid 1000 --create-home --home-dir /home/sandbox \
    --shell /bin/bash sandbox
chmod 0755 "$root/home/sandbox"
mkdir -p "$root/workspace" "$root/app" \
    "$root/home/sandbox/.local/bin" "$root/home/sandbox/.cache" \
    "$root/home/sandbox/.npm-global/bin" "$root/home/sandbox/.npm-global/lib"

# `npm install -g` writes below the user's home; root keeps Debian's /usr/local.
cat >"$root/home/sandbox/.npmrc" <<'EOF'
prefix=/home/sandbox/.npm-global
update-notifier=false
fund=false
EOF
chown -R 1000:1000 "$root/workspace" "$root/app" "$root/home/sandbox"

# The distribution marks its Python as externally managed, which makes a plain `pip install` fail.
# In a sandbox nobody else manages it: let pip install, for a user into ~/.local (its own default
# where the system's directory is not writable), for root into /usr/local. The marker itself stays,
# since an upgrade of the package would bring it back. `user = true` would break virtual environments.
cat >"$root/etc/pip.conf" <<'EOF'
[global]
break-system-packages = true
disable-pip-version-check = true
root-user-action = ignore
no-warn-script-location = true
EOF

path=/home/sandbox/.local/bin:/home/sandbox/.npm-global/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cat >"$root/etc/environment" <<EOF
PATH="$path"
LANG="C.UTF-8"
EOF
# A login shell's /etc/profile overwrites PATH, then reads this.
cat >"$root/etc/profile.d/forkpoint.sh" <<EOF
export PATH="$path"
export LANG="\${LANG:-C.UTF-8}"
EOF

# What is installed later stays as lean as what is here. mmdebstrap's own file of this kind goes.
rm -f "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
cat >"$root/etc/dpkg/dpkg.cfg.d/forkpoint" <<'EOF'
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/groff/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
EOF
