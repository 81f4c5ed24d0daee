#!/bin/busybox sh
# The init process of the virtual board: runs the numbered lines that the host sends, and answers each with its number,
# exit code, length and output; with 0 once it has started.
#
# Lines come through the first virtio port. The host's folder is /share. Without the host the board switches itself off.
fail() {
    echo "vm: $*"
    poweroff -f
}

serve() {
    exec 3<>"$1" || fail "no line to the host"
    echo 0 0 0 >&3
    while read -r number line <&3; do
        (eval "$line") >/tmp/answer 2>&1 </dev/null 3>&-
        echo "$number $? $(wc -c </tmp/answer)" >&3
        cat /tmp/answer >&3
    done
}

export PATH=/tmp/busybox:/usr/bin:/usr/sbin HOME=/tmp
/bin/busybox mount -t tmpfs tmpfs /tmp
/bin/busybox mkdir /tmp/busybox
/bin/busybox --install -s /tmp/busybox
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
ip link set lo up
modprobe -a virtio_console 9p 9pnet_virtio || fail "modules are missing"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share || fail "no shared folder"
tries=0
until port=$(ls /dev/vport*p1 2>/dev/null); do
    [ $tries -lt 100 ] || fail "no line to the host"
    usleep 50000
    tries=$((tries + 1))
done
# As a child: this, the first process, reaps what the host's lines leave running in the background.
serve "$port" &
wait $!
fail "the host went away"
