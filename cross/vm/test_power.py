"""Power cuts while labels and bundles are rewritten: every boot afterwards finds the complete old or new state.

A killed QEMU loses what the board had not handed to its disk. A real disk also loses what it had not been told to
flush; so other tests record what was written, and make disks that lost any of the unflushed writes, or part of one.
"""

import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

from bundles import DEMO_SCALE, archive
from machine import Machine
from program import Run

SLOW = os.environ.get("SPOTTER_SLOW") == "1"
CUTS = 50 if SLOW else 2
LOST_WRITES = 200 if SLOW else 20
DISK_MB = 64
STATE = "/mnt/state"
CACHE, JOURNAL = "label-cache.safetensors", "label-cache.journal"

# The bundles that are installed in turn, by logit scale, so that a frame's scores tell which one runs.
SCALES = {"odd": 10, "even": 50}
BUILT_IN = "built-in"


def new_disk(path):
    subprocess.run(["/sbin/mkfs.ext4", "-q", path, f"{DISK_MB}M"], check=True, stdout=subprocess.DEVNULL)


def journal(content):
    """The entries of a cache's journal, by key, up to its last complete record."""
    found, at = {}, 8
    while content[:8] == b"sptjrnl1" and at + 4 <= len(content):
        (length,) = struct.unpack_from("<I", content, at)
        record, sum = content[at + 4 :][:length], content[at + 4 + length :][:8]
        if hashlib.sha256(record).digest()[:8] != sum:
            break
        if record[0] == 0:
            found[record[1:33].hex()] = record[33:]
        at += 4 + length + 8
    return found


def embeddings(content, added=b""):
    """The entries of a cache's file (safetensors) and journal, by key; raises if the file is incomplete."""
    if content is None:
        return journal(added)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    data = content[8 + length :]
    assert max(tensor["data_offsets"][1] for tensor in tensors.values()) == len(data)
    return {name: data[slice(*tensor["data_offsets"])] for name, tensor in tensors.items()} | journal(added)


def kind(slot):
    """Which of the two bundles is in a slot: they are numbered."""
    return "odd" if int(slot[1:]) % 2 else "even"


def hashes(tar):
    """SHA-256 of a slot's files for an archive, by name: the archive itself."""
    return {"bundle.tar": hashlib.sha256(tar.read_bytes()).hexdigest()}


class Slots:
    """The expected slots and the active one, by the commands sent to the board."""

    def __init__(self, active=BUILT_IN, previous=None, names=()):
        self.active, self.previous, self.names = active, previous, frozenset(names)

    def key(self):
        return self.active, self.previous, self.names

    def after(self, action, slot=None):
        """The state after a command."""
        if action == "install":
            return Slots(self.active, self.previous, self.names | {slot})
        if action == "activate":
            return Slots(slot, self.active, self.names) if slot != self.active else self
        if action == "rollback":
            return Slots(self.previous, None, self.names)
        return Slots(self.active, self.previous, self.names - {slot})


# Installs, activates and rolls back one bundle after the other, and logs each command before and after it. Slots that are
# neither active nor the previous one are removed first, as are remains of a cut: the disk has room for few.
COMMANDS = """
step() {
    echo "begin $*" >>/share/slots.log
    if spotter bundle "$@" >/tmp/said 2>&1; then echo "done" >>/share/slots.log; else
        { echo "failed $*"; cat /tmp/said; } >>/share/slots.log
        exit 1
    fi
}
n=$1 active=$2 previous=$3
while :; do
    for old in $(ls /mnt/state/bundles 2>/dev/null); do
        [ "$old" = "$active" ] || [ "$old" = "$previous" ] || step remove $old
    done
    case $((n % 2)) in 1) kind=odd ;; *) kind=even ;; esac
    step install /share/$kind.tar --name s$n
    step activate s$n
    step rollback
    step activate s$n
    previous=$active active=s$n
    n=$((n + 1))
done
"""


class Board:
    """`spotter run` on a board that gets one new label after the other, while bundles are installed and activated."""

    def __init__(self, machine, label):
        self.machine, self.label = machine, label
        machine.run(f"mkdir -p {STATE} && mount -t ext4 /dev/vdb {STATE}")
        for name, scale in SCALES.items():
            archive(machine.share / f"{name}.tar", name, scale)
        self.write()
        self.program = Run(machine, "--labels /tmp/labels.toml", source="test://shapes?fps=2", state=STATE)
        self.log = self.program.log
        self.commands = machine.share / "slots.log"

    def write(self):
        labels = "".join(f'[[label]]\nname = "thing {n}"\n' for n in range(max(0, self.label - 20), self.label + 1))
        (self.machine.share / "labels.toml").write_text(labels)
        self.machine.run("cp /share/labels.toml /tmp/labels.new && mv /tmp/labels.new /tmp/labels.toml")

    def next(self):
        self.label += 1
        self.write()

    def kept(self):
        """How many sentences each change of labels or bundle embedded; logged once they are on the disk."""
        return [int(count) for count in re.findall(r"(\d+) embedded", self.log.read_text())]

    def wait_kept(self, count, timeout=300):
        deadline = time.monotonic() + timeout
        while len(self.kept()) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def change_bundles(self, number, slots):
        """Starts the commands, from slot `number` on."""
        (self.machine.share / "slots.sh").write_text(COMMANDS)
        self.commands.touch()
        self.machine.start(f"STATE_DIRECTORY={STATE} sh /share/slots.sh {number} {slots.active} {slots.previous or 'none'}", "slots")

    def done(self):
        """The number of finished commands; each must succeed."""
        lines = self.commands.read_text().splitlines()
        assert not any(line.startswith("failed") for line in lines), lines
        return lines.count("done")

    def work(self, chance):
        """Changes labels all the time, until a random moment some commands later."""
        start, commands, command_s = time.monotonic(), chance.randrange(6), 4.0
        while self.done() < commands:
            assert time.monotonic() - start < 900, self.commands.read_text()
            self.next()
            time.sleep(chance.uniform(0.0, 0.6))
            command_s = (time.monotonic() - start) / max(self.done(), 1)
        end = time.monotonic() + chance.uniform(0.0, command_s)
        while time.monotonic() < end:
            self.next()
            time.sleep(chance.uniform(0.0, min(0.6, command_s)))

    def possible(self, slots):
        """The effect of the commands so far on `slots`: a list of the states before and after the last one."""
        lines, done = self.commands.read_text().splitlines(), self.done()
        states = [slots]
        for line in lines:
            if line == "done":
                states = states[-1:]
            else:
                words = [word for word in line.split()[1:] if not word.startswith(("/", "--"))]
                states.append(states[-1].after(*words))
        return states, done

    def listed(self):
        """The slots as the program lists them; every one must be usable."""
        found = json.loads(self.machine.run(f"STATE_DIRECTORY={STATE} spotter bundle list --json"))
        problems = [row for row in found["slots"] if row["problem"] or row["failed"]]
        assert not problems, problems
        names = {row["slot"] for row in found["slots"]} - {BUILT_IN}
        return Slots(found["active"], found["previous"], names)


class PowerTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.disk = self.folder / "disk"
        new_disk(self.disk)
        self.image = os.environ["SPOTTER_VM"]

    def content(self, disk, name=CACHE):
        """A file of a disk after its journal was replayed. Repairs the disk."""
        checked = subprocess.run(["/sbin/e2fsck", "-f", "-y", disk], capture_output=True, text=True)
        self.assertIn(checked.returncode, (0, 1), checked.stdout)
        out = self.folder / "out"
        out.unlink(missing_ok=True)
        subprocess.run(["/sbin/debugfs", "-R", f"dump {name} {out}", disk], capture_output=True, check=True)
        return out.read_bytes() if out.exists() and out.stat().st_size else None

    def check_contents(self, machine, slots):
        """Checks that every file of every slot is that of the installed bundle."""
        if not slots.names:
            return
        expected = {name: hashes(machine.share / f"{name}.tar") for name in SCALES}
        found = {}
        for line in machine.run(f"cd {STATE}/bundles && sha256sum s*/*").splitlines():
            hash, path = line.split()
            slot, file = path.split("/")
            found.setdefault(slot, {})[file] = hash
        for slot in slots.names:
            self.assertEqual(found[slot].keys() - expected[kind(slot)].keys(), {"slot.json"}, slot)
            for file, hash in expected[kind(slot)].items():
                self.assertEqual(found[slot][file], hash, f"{slot}/{file}")

    def check_boot(self, board, known, allowed, when):
        """Checks that the disk works and has one of the `allowed` states of the slots; returns that state."""
        board.wait_kept(1)
        slots = board.listed()
        self.assertIn(slots.key(), [state.key() for state in allowed], f"after {when}")
        line = board.program.wait(lambda line: "frame" in line, "labelled frame")
        scale = DEMO_SCALE if slots.active == BUILT_IN else SCALES[kind(slots.active)]
        best = line["labels"][0]
        self.assertAlmostEqual(best["logit"] / best["cosine"] / scale, 1, 1, f"after {when}: {slots.active} runs")
        self.check_contents(board.machine, slots)
        log = board.log.read_text()
        for word in ("ignored", "cannot", "panicked"):
            self.assertNotIn(word, log, f"after {when}")
        board.machine.run(f"cp {STATE}/{CACHE} /share/cache; cp {STATE}/{JOURNAL} /share/journal || : >/share/journal")
        found = embeddings(*((board.machine.share / name).read_bytes() for name in ("cache", "journal")))
        for key in found.keys() & known.keys():
            self.assertEqual(found[key], known[key], f"after {when}")
        known |= found
        return slots, len(found)

    def test_cut_power(self):
        """QEMU is killed at random moments; the board boots again, and finds everything that was acknowledged."""
        chance = random.Random(5)
        label, kept, known, allowed, number, commands = 0, 0, {}, [Slots()], 1, 0
        hits, start = {}, time.monotonic()
        for cut in range(CUTS + 1):
            with Machine(self.image, disks=[self.disk]) as machine:
                if cut == 0:
                    machine.run(f"mkdir -p {STATE} && mount -t ext4 /dev/vdb {STATE}")
                    # The sentences that the commands try a bundle with are cached from the start, so that they write no cache.
                    machine.run(f"STATE_DIRECTORY={STATE} spotter labels", 120)
                    machine.run(f"umount {STATE}")
                board = Board(machine, label)
                slots, found = self.check_boot(board, known, allowed, f"cut {cut}")
                self.assertGreaterEqual(found, kept, f"after cut {cut} something is lost that was kept")
                if cut == CUTS:
                    break
                begun = len(board.kept())
                board.change_bundles(number, slots)
                board.work(chance)
                machine.kill()
                allowed, done = board.possible(slots)
                commands += done
                under_way = board.commands.read_text().splitlines()[-1:]
                hit = under_way[0].split()[1] if under_way and under_way[0] != "done" else "nothing"
                hits[hit] = hits.get(hit, 0) + 1
                print(f"cut {cut + 1} while at {hit}, after {time.monotonic() - start:.0f} s", flush=True)
                kept, label = found + sum(board.kept()[begun:]), board.label
                names = [int(name[1:]) for state in allowed for name in state.names]
                number = max([*names, number - 1]) + 1
        print(f"{CUTS} power cuts in {time.monotonic() - start:.0f} s: {label} label sets, {len(known)} embeddings, {commands} commands to "
              f"bundles done, cut off: {hits}")

    def logged_disk(self):
        """The log of writes to the disk, what the disk was before, and the drive that writes both."""
        log = self.folder / "log"
        log.touch()
        drive = (f"driver=blklogwrites,log-sector-size=512,log-super-update-interval=1,file.driver=file,"
                 f"file.filename={self.disk},log.driver=file,log.filename={log}")
        return log, self.disk.read_bytes(), drive

    def test_lost_writes(self):
        """Disks after a power cut that lost any of the writes since the last flush."""
        log, before, drive = self.logged_disk()
        marks = []  # How many writes were logged at most when so many label sets were kept.
        with Machine(self.image, disks=[drive]) as machine:
            board = Board(machine, 0)
            for count in range(1, 13):
                board.wait_kept(count)
                marks.append((count_logged(log), count))
                board.next()
            board.wait_kept(13)
            machine.kill()
        writes = read_log(log)
        chance, whole = random.Random(7), []
        for _ in range(LOST_WRITES):
            cut = chance.randrange(marks[0][0], len(writes) + 1)
            self.disk.write_bytes(cut_off(before, writes[:cut], chance))
            content = embeddings(self.content(self.disk), self.content(self.disk, JOURNAL) or b"")
            kept = max((kept for at, kept in marks if at <= cut), default=0)
            self.assertGreaterEqual(len(content), kept, f"after {cut} of {len(writes)} writes")
            whole.append(len(content))
        self.assertGreater(len(set(whole)), min(5, LOST_WRITES // 5), "the cuts fall between many label sets")
        print(f"{LOST_WRITES} disks with lost writes, of {len(writes)} writes; {min(whole)} to {max(whole)} labels kept")

    def slots_on(self, disk, expected):
        """The slots on a disk, each complete, and the active one; without those being created or removed."""
        state = json.loads(self.content(disk, "bundles.json") or b'{"active": "built-in", "previous": null}')
        folder = self.folder / "slots"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        subprocess.run(["/sbin/debugfs", "-R", f"rdump bundles {folder}", disk], capture_output=True, check=True)
        names = set()
        for slot in folder.glob("bundles/s*"):
            names.add(slot.name)
            for file, hash in expected[kind(slot.name)].items():
                self.assertEqual(hashlib.sha256((slot / file).read_bytes()).hexdigest(), hash, f"{slot.name}/{file}")
            json.loads((slot / "slot.json").read_text())
        return Slots(state["active"], state["previous"], names)

    def test_lost_writes_of_bundles(self):
        """As above, while bundles are installed, activated, rolled back and removed."""
        log, before, drive = self.logged_disk()
        slots = Slots()
        with Machine(self.image, disks=[drive]) as machine:
            machine.run(f"mkdir -p {STATE} && mount -t ext4 /dev/vdb {STATE}")
            expected = {}
            for name, scale in SCALES.items():
                archive(machine.share / f"{name}.tar", name, scale)
                expected[name] = hashes(machine.share / f"{name}.tar")
            marks = [(count_logged(log), slots)]
            for words in ["install s1", "activate s1", "install s2", "activate s2", "rollback", "activate s2",
                          "install s3", "activate s3", "remove s1"]:
                action, *slot = words.split()
                path = f"/share/{kind(slot[0])}.tar --name " if action == "install" else ""
                machine.run(f"STATE_DIRECTORY={STATE} spotter bundle {action} {path}{' '.join(slot)} 2>&1")
                slots = slots.after(*words.split())
                marks.append((count_logged(log), slots))
            machine.kill()
        writes = read_log(log)
        chance, found = random.Random(11), set()
        for _ in range(LOST_WRITES):
            cut = chance.randrange(marks[0][0], len(writes) + 1)
            self.disk.write_bytes(cut_off(before, writes[:cut], chance))
            last = max(i for i, (at, _) in enumerate(marks) if at <= cut)
            slots = self.slots_on(self.disk, expected)
            allowed = [state.key() for _, state in marks[last : last + 2]]
            self.assertIn(slots.key(), allowed, f"after {cut} of {len(writes)} writes")
            found.add(slots.key())
        self.assertGreater(len(found), min(4, LOST_WRITES // 5), "the cuts fall between many states")
        print(f"{LOST_WRITES} disks with lost writes, of {len(writes)} writes; {len(found)} states of the slots")


# The log of QEMU's blklogwrites, which is that of Linux's dm-log-writes.
FLUSH, FUA, DISCARD = 1, 2, 4
MAGIC = 0x6A736677736872


def count_logged(path):
    magic, _version, count, _sector = struct.unpack("<QQQI", path.read_bytes()[:28])
    assert magic == MAGIC, hex(magic)
    return count


def read_log(path):
    """All writes: flags, position, and bytes."""
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
    """The disk after `writes`, of which those after the last flush are complete, lost, or partial."""
    disk = bytearray(disk)
    flushed = max((i for i, (flags, _, _) in enumerate(writes) if flags & FLUSH), default=0)
    for i, (flags, start, data) in enumerate(writes):
        if i > flushed and not flags & FUA:
            data = chance.choice([b"", data, data[: 512 * chance.randrange(len(data) // 512 + 1)]])
        disk[start : start + len(data)] = data
    return bytes(disk)


if __name__ == "__main__":
    unittest.main(verbosity=2)
