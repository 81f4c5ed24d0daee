"""Little memory: the demo bundle on a board with 192 MB, a bundle of ViT-B/32 and BERT-base on one with 512 MB."""

import os
import pathlib
import subprocess
import tempfile
import unittest

import checkpoint
from bundles import export
from camera import Camera
from machine import Machine
from program import Run


SLOW = os.environ.get("SPOTTER_SLOW") == "1"


class MemoryTest(unittest.TestCase):
    def check(self, machine, run, frames, timeout):
        """This many frames are labelled, and the kernel never has to reclaim memory by killing."""
        run.wait(lambda _: len(run.numbers()) >= frames, f"frame {frames}", timeout)
        total, available = (int(machine.run(f"grep {name} /proc/meminfo").split()[1]) for name in ("MemTotal", "MemAvail"))
        print(f"{total} kB in all, {available} kB left; spotter {run.resident_kb()} kB, at most {run.resident_kb(True)} kB")
        self.assertTrue(machine.lives(run.pid))
        said = machine.run("dmesg").lower()
        for word in ("out of memory", "oom-kill", "page allocation failure"):
            self.assertNotIn(word, said)
        self.assertNotIn("panicked", run.log.read_text())
        return available

    def test_demo_in_192_mb(self):
        """With a camera of 1280x720, and its labels embedded on the board."""
        with Machine(os.environ["SPOTTER_VM"], memory_mb=192) as machine:
            Camera(machine)
            (machine.share / "large.toml").write_text("[capture]\nwidth = 1280\nheight = 720\n")
            run = Run(machine, "--config /share/large.toml")
            self.check(machine, run, 50 if SLOW else 10, 600)
            run.end()

    @unittest.skipUnless(SLOW, "SPOTTER_SLOW=1 runs it: a large model takes minutes on an emulated CPU")
    def test_vit_b32_in_512_mb(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        checkpoint.main(folder / "checkpoint")
        export(folder / "checkpoint", folder / "disk/bundle", "--weights", "int8")
        files = (folder / "disk/bundle").iterdir()
        sizes = {file.name: file.stat().st_size // 1_000_000 for file in files}
        print(f"the bundle in MB: {sizes}")
        labels = "".join(f'[[label]]\nname = "{name}"\n' for name in ("a red circle", "a dog", "an empty room"))
        (folder / "disk/labels.toml").write_text(labels)
        disk = folder / "bundle.ext4"
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-d", folder / "disk", disk, "512M"], check=True)
        with Machine(os.environ["SPOTTER_VM"], memory_mb=512, disks=[f"file={disk},format=raw"]) as machine:
            machine.run("mkdir -p /mnt/disk && mount -t ext4 -o ro /dev/vdb /mnt/disk")
            Camera(machine)
            run = Run(machine, "--bundle /mnt/disk/bundle --labels /mnt/disk/labels.toml")
            self.check(machine, run, 5, 1200)
            run.end()


if __name__ == "__main__":
    unittest.main(verbosity=2)
