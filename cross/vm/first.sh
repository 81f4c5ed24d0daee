#!/bin/busybox sh
# The first program of the virtual board: finds the root disk and starts /sbin/guest on it.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module" || echo "vm: cannot load $module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do
    usleep 50000
    tries=$((tries + 1))
done
if ! mount -t ext4 -o ro /dev/vda /root; then
    echo "vm: no root disk"
    poweroff -f
fi
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
exec switch_root /root /sbin/guest
