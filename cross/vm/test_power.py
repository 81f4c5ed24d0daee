"""Power cuts while labels are rewritten: every boot afterwards finds the old state or the new one whole.

A killed QEMU loses what the board had not handed to its disk. A real disk also loses what it had not been told to
flush; so another test records what was written, and makes disks that lost any of the unflushed writes, or part of one.
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import tempfile
import time
import unittest

from machine import Machine

LONG = os.environ.get("SPOTTER_VM_LONG") == "1"
CUTS = 50 if LONG else 3
LOST_WRITES = 200 if LONG else 50
DISK_MB = 64
STATE = "/mnt/state"
CACHE = "label-cache.safetensors"


def new_disk(path):
    subprocess.run(["/sbin/mkfs.ext4", "-q", path, f"{DISK_MB}M"], check=True, stdout=subprocess.DEVNULL)


def entries(content):
    """How many embeddings a cache file holds; an error where it is not whole (safetensors format)."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    assert max(tensor["data_offsets"][1] for tensor in tensors.values()) == len(content) - 8 - length
    return sum(tensor["shape"][0] if len(tensor["shape"]) > 1 else 1 for tensor in tensors.values())


class Writer:
    """`spotter run` on a board, which is given one new label after the other."""

    def __init__(self, machine, first):
        self.machine, self.count, self.log = machine, first, machine.share / "run.err"
        machine.run(f"mkdir -p {STATE} && mount -t ext4 /dev/vdb {STATE}")
        self.write()
        self.pid = machine.start(
            f"STATE_DIRECTORY={STATE} spotter run --source 'test://shapes?fps=2' --labels /tmp/labels.toml", "run")

    def write(self):
        labels = "".join(f'[[label]]\nname = "thing {n}"\n' for n in range(max(0, self.count - 20), self.count + 1))
        (self.machine.share / "labels.toml").write_text(labels)
        self.machine.run("cp /share/labels.toml /tmp/labels.new && mv /tmp/labels.new /tmp/labels.toml")

    def next(self):
        self.count += 1
        self.write()

    def kept(self):
        """How many changes of the labels the program has said to be done."""
        return sum(" embedded" in line for line in self.log.read_text().splitlines())

    def wait_kept(self, count, timeout=60):
        deadline = time.monotonic() + timeout
        while self.kept() < count:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


class PowerTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.disk = self.folder / "disk"
        new_disk(self.disk)
        self.image = os.environ["SPOTTER_VM"]

    def content(self, disk):
        """The cache on a disk after its journal was replayed, and what else is in its folder. Repairs the disk."""
        checked = subprocess.run(["/sbin/e2fsck", "-f", "-y", disk], capture_output=True, text=True)
        self.assertIn(checked.returncode, (0, 1), checked.stdout)
        out = self.folder / "cache"
        out.unlink(missing_ok=True)
        subprocess.run(["/sbin/debugfs", "-R", f"dump {CACHE} {out}", disk], capture_output=True, check=True)
        return out.read_bytes() if out.exists() and out.stat().st_size else None

    def test_cut_power(self):
        """QEMU is killed at random moments; the board boots again, and finds what it was told to be kept."""
        chance, label, kept = random.Random(5), 0, 0
        for cut in range(CUTS + 1):
            with Machine(self.image, disks=[self.disk]) as machine:
                writer = Writer(machine, label)
                writer.wait_kept(1)
                log = writer.log.read_text()
                self.assertNotIn("ignored", log, f"after cut {cut}")
                self.assertNotIn("cannot be", log, f"after cut {cut}")
                machine.run(f"cp {STATE}/{CACHE} /share/cache")
                found = entries((machine.share / "cache").read_bytes())
                self.assertGreaterEqual(found, kept, f"after cut {cut} something is lost that was kept")
                names = machine.run(f"ls -A {STATE}").split()
                self.assertEqual(sorted(names), [CACHE, "lost+found"], f"after cut {cut}")
                if cut == CUTS:
                    break
                end = time.monotonic() + chance.uniform(0.0, 4.0)
                while time.monotonic() < end:
                    writer.next()
                    time.sleep(chance.uniform(0.0, 0.4))
                machine.kill()
                log = writer.log.read_text()
                kept, label = found + writer.kept() - 1, writer.count
        print(f"{CUTS} power cuts, {label} label sets")

    def test_lost_writes(self):
        """Disks as a power cut leaves them that lost any of the writes since the last flush."""
        log = self.folder / "log"
        log.touch()
        before = self.disk.read_bytes()
        drive = (f"driver=blklogwrites,log-sector-size=512,log-super-update-interval=1,file.driver=file,"
                 f"file.filename={self.disk},log.driver=file,log.filename={log}")
        marks = []  # How many writes were logged at most when so many label sets were kept.
        with Machine(self.image, disks=[drive]) as machine:
            writer = Writer(machine, 0)
            for count in range(1, 13):
                writer.wait_kept(count)
                marks.append((count_logged(log), count))
                writer.next()
            writer.wait_kept(13)
            machine.kill()
        writes = read_log(log)
        chance, whole = random.Random(7), []
        for _ in range(LOST_WRITES):
            cut = chance.randrange(marks[0][0], len(writes) + 1)
            self.disk.write_bytes(cut_off(before, writes[:cut], chance))
            content = self.content(self.disk)
            kept = max((kept for at, kept in marks if at <= cut), default=0)
            self.assertIsNotNone(content, f"after {cut} of {len(writes)} writes")
            self.assertGreaterEqual(entries(content), kept, f"after {cut} of {len(writes)} writes")
            whole.append(entries(content))
        self.assertGreater(len(set(whole)), 5, "the cuts fall between many label sets")
        print(f"{LOST_WRITES} disks with lost writes, of {len(writes)} writes; {min(whole)} to {max(whole)} labels kept")


# The log of QEMU's blklogwrites, which is that of Linux's dm-log-writes.
FLUSH, FUA, DISCARD = 1, 2, 4
MAGIC = 0x6A736677736872


def count_logged(path):
    magic, _version, count, _sector = struct.unpack("<QQQI", path.read_bytes()[:28])
    assert magic == MAGIC, hex(magic)
    return count


def read_log(path):
    """All writes: flags, where, and the bytes."""
    content = path.read_bytes()
    sector = struct.unpack("<I", content[24:28])[0]
    at, writes = sector, []
    for _ in range(count_logged(path)):
        start, count, flags, length = struct.unpack("<QQQQ", content[at : at + 32])
        at += sector
        data = b"" if flags & DISCARD else content[at : at + count * sector]
        at += len(data)
        writes.append((flags, start * sector, data))
    return writes


def cut_off(disk, writes, chance):
    """The disk after `writes`, of which those after the last flush are there, lost, or there in part."""
    disk = bytearray(disk)
    flushed = max((i for i, (flags, _, _) in enumerate(writes) if flags & FLUSH), default=0)
    for i, (flags, start, data) in enumerate(writes):
        if i > flushed and not flags & FUA:
            data = chance.choice([b"", data, data[: 512 * chance.randrange(len(data) // 512 + 1)]])
        disk[start : start + len(data)] = data
    return bytes(disk)


if __name__ == "__main__":
    unittest.main(verbosity=2)
