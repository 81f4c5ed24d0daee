#!/bin/bash
# The part of cross/deb/test.sh that runs as root in a mount namespace: cross/deb/chroot.sh ARCHITECTURE SUITE PACKAGE
set -euo pipefail
architecture=$1 suite=$2 package=$3
source cross/toolchain.sh
readonly MIRROR=${SPOTTER_DEBIAN_MIRROR:-http://deb.debian.org/debian}
readonly BINFMT=/proc/sys/fs/binfmt_misc
base=$CARGO_TARGET_DIR/deb/$suite-$architecture.tar
work=$(mktemp -d)
root=$work/root
registered=

end() {
    umount --quiet "$root/proc" 2>/dev/null || true
    [ -z "$registered" ] || echo -1 >"$registered"
    rm -rf --one-file-system "$work"
}
trap end EXIT

fail() {
    say "FAILED: $*"
    exit 1
}

inside() { LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"; }

# as_service COMMAND...: with the user, groups and state folder that the unit sets.
as_service() {
    inside setpriv --reuid spotter --regid video --init-groups \
        env -i PATH=/usr/bin:/bin STATE_DIRECTORY=/var/lib/spotter "$@"
}

# by_hand ARGUMENT...: as with `sudo -u spotter spotter ARGUMENT...`, without what systemd gives a service.
by_hand() {
    inside setpriv --reuid spotter --regid spotter --init-groups env -i HOME=/var/lib/spotter /usr/bin/spotter "$@"
}

# same WHAT EXPECTED FOUND
same() { [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"; }

# Makes the kernel start foreign programs with qemu-user, unless the system already does.
register_emulator() {
    [ -e "$BINFMT/register" ] || mount -t binfmt_misc binfmt_misc "$BINFMT"
    if [ ! -e "$BINFMT/qemu-aarch64" ]; then
        cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$BINFMT/register"
        registered=$BINFMT/qemu-aarch64
    fi
}

make_base() {
    [ ! -e "$base" ] || return 0
    say "debootstrap: $suite for $architecture"
    mkdir -p "$(dirname "$base")"
    if ! debootstrap --arch="$architecture" --variant=minbase "$suite" "$work/base" "$MIRROR" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        fail "debootstrap"
    fi
    rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
    tar -C "$work/base" -cf "$base.new" .
    mv "$base.new" "$base"
    rm -rf "$work/base"
}

# Every file with its owner and mode, and the accounts; without dpkg's records, /run, and the back-up copies of account
# files.
everything() {
    inside find / -xdev \( -path /proc -o -path /run -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \) -prune -o \
        ! -path '/etc/*-' -printf '%p %y %m %u %g\n' | sort
    inside sh -c 'cd /etc && sort passwd group shadow gshadow | md5sum'
}

check_installed() {
    same "the program's owner and mode" "root root 755" "$(inside stat -c '%U %G %a' /usr/bin/spotter)"
    same "/var/lib/spotter's owner and mode" "spotter video 750" "$(inside stat -c '%U %G %a' /var/lib/spotter)"
    same "the account's home and shell" "/var/lib/spotter /usr/sbin/nologin" \
        "$(inside getent passwd spotter | awk -F: '{ print $6, $7 }')"
    inside id -nG spotter | tr ' ' '\n' | grep -qx video || fail "the user spotter is not in the group video"
    [ -e "$root/usr/lib/systemd/system/spotter.service" ] || fail "no unit"
    [ ! -e "$root/etc/systemd/system/multi-user.target.wants/spotter.service" ] || fail "the unit is enabled"
    same "configuration files" "$(printf '%s\n' /etc/spotter/labels.toml /etc/spotter/spotter.toml \
        /etc/systemd/journald@spotter.conf)" "$(inside dpkg-query -W -f '${Conffiles}\n' spotter |
        awk 'NF { print $1 }' | sort)"
}

check_program() {
    local version board command
    version=$(inside dpkg-query -W -f '${Version}' spotter)
    same "spotter --version" "spotter ${version%%-*}" "$(inside spotter --version)"
    as_service spotter check || fail "spotter check finds fault with the packaged configuration"
    for board in "$root"/usr/share/spotter/boards/*.toml; do
        board=${board#"$root"}
        as_service spotter check --config "$board" || fail "spotter check finds fault with $board"
    done
    as_service spotter check --bundle /usr/share/spotter/demo || fail "the packaged demo bundle is not whole"

    # The unit's command, for three frames of drawn shapes.
    command=$(sed -n 's/^ExecStart=//p' "$root/usr/lib/systemd/system/spotter.service")
    # shellcheck disable=SC2086
    same "frames that the unit's command labels" 3 "$(as_service $command --source test://shapes --output json \
        --frames 3 | grep -c '"labels"')"
    # With the same state folder, whose embeddings are found.
    by_hand labels >"$work/labels" || fail "spotter labels"
    if ! tail -n 1 "$work/labels" | grep -q ' cached, 0 embedded, in /var/lib/spotter/'; then
        cat "$work/labels" >&2
        fail "a command typed by hand does not find the embeddings that the service made"
    fi
    by_hand doctor >"$work/doctor" || { cat "$work/doctor" >&2; fail "spotter doctor finds fault"; }

    # A bundle of one's own, as in cross/README.md, which the service then runs.
    tar -C "$root/usr/share/spotter/demo" --exclude '*.toml' -cf "$root/tmp/shapes-v2.tar" .
    by_hand bundle install /tmp/shapes-v2.tar
    by_hand bundle activate shapes-v2
    # shellcheck disable=SC2086
    as_service $command --source test://shapes --frames 1 >"$work/run" 2>&1 || { cat "$work/run" >&2; fail "spotter run"; }
    grep -q 'bundle: shapes-v2' "$work/run" || fail "the service does not run the bundle that was activated by hand"
    by_hand bundle list >"$work/list"
    grep -q '^shapes-v2 .* active' "$work/list" || fail "spotter bundle list does not show the active bundle"
    by_hand bundle rollback
    rm "$root/tmp/shapes-v2.tar"
}

# The package again with a higher version: with other comments in two configuration files, one of which was edited
# locally.
make_newer() {
    local tree=$work/newer
    dpkg-deb -R "$package" "$tree"
    sed -i 's/^Version: .*/&.1/' "$tree/DEBIAN/control"
    echo '# newer' >>"$tree/etc/spotter/spotter.toml"
    echo '# newer' >>"$tree/etc/systemd/journald@spotter.conf"
    dpkg-deb --root-owner-group -b "$tree" "$root/newer.deb" >/dev/null
    rm -rf "$tree"
}

check_upgrade() {
    local before
    make_newer
    sed -i 's/^#max_fps = 0/max_fps = 7/' "$root/etc/spotter/spotter.toml"
    grep -qx 'max_fps = 7' "$root/etc/spotter/spotter.toml" || fail "the configuration has no '#max_fps = 0' to edit"
    echo '# edited' >>"$root/etc/spotter/labels.toml"
    before=$(find "$root/var/lib/spotter" -type f -exec sha256sum {} + | sort)
    inside dpkg --force-confdef --force-confold -i /newer.deb
    rm "$root/newer.deb"
    grep -qx 'max_fps = 7' "$root/etc/spotter/spotter.toml" || fail "the upgrade lost what was edited in spotter.toml"
    grep -qx '# edited' "$root/etc/spotter/labels.toml" || fail "the upgrade lost what was edited in labels.toml"
    grep -qx '# newer' "$root/etc/spotter/spotter.toml.dpkg-dist" || fail "the newer spotter.toml is not beside the old"
    [ ! -e "$root/etc/spotter/labels.toml.dpkg-dist" ] || fail "labels.toml did not change, yet there is another one"
    grep -qx '# newer' "$root/etc/systemd/journald@spotter.conf" || fail "a file that nobody edited was not replaced"
    same "the state after the upgrade" "$before" "$(find "$root/var/lib/spotter" -type f -exec sha256sum {} + | sort)"
    check_installed
    as_service spotter check || fail "spotter check after the upgrade"
}

check_removal() {
    inside dpkg -r spotter
    [ ! -e "$root/usr/bin/spotter" ] || fail "removed, yet the program is there"
    [ ! -e "$root/usr/share/spotter" ] || fail "removed, yet /usr/share/spotter is there"
    grep -qx 'max_fps = 7' "$root/etc/spotter/spotter.toml" || fail "removed, and the edited configuration with it"
    [ -n "$(ls -A "$root/var/lib/spotter")" ] || fail "removed, and the state with it"

    inside dpkg --force-confdef --force-confold -i /spotter.deb
    grep -qx 'max_fps = 7' "$root/etc/spotter/spotter.toml" || fail "installed again, and the edited configuration is gone"
    check_installed
    inside dpkg -P spotter
}

[ "$architecture" = "$(dpkg --print-architecture)" ] || register_emulator
make_base
mkdir "$root"
tar -C "$root" -xf "$base"
mount -t proc proc "$root/proc"
everything >"$work/before"
cp "$package" "$root/spotter.deb"
inside dpkg -i /spotter.deb || fail "the package does not install: dpkg names what it misses"
check_installed
say "installed"
check_program
say "runs: checks its configuration, labels frames, shares state with commands typed by hand"
check_upgrade
say "upgraded: edited configuration kept"
check_removal
rm "$root/spotter.deb"
everything >"$work/after"
diff "$work/before" "$work/after" >&2 || fail "purged, and not everything is as before (< before, > after)"
say "removed, installed again, purged: no file and no account is left"
