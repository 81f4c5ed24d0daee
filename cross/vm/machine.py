"""A virtual 64-bit ARM board under QEMU, driven line by line; image.sh makes what it boots."""

import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

# A boot takes some 15 s here; a loaded machine needs more.
BOOT_S = 600

# Time limit, on a loaded machine, for a command that takes seconds.
PATIENCE_S = 300


class Failed(Exception):
    """A command on the board failed, or the board itself."""


class Machine:
    """A booted board. Its /share is `self.share` here. Use it with `with`, so that it never outlives a test.

    `disks` are files, or drives as QEMU's -drive describes them. With `usb` there is a USB port, the socket `self.usb`, that a
    device can be plugged into with the protocol usbredir.
    """

    def __init__(self, image, memory_mb=512, cores=2, cpu="cortex-a76", disks=(), usb=False):
        image = pathlib.Path(image)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="spotter-vm-"))
        self.share = self.folder / "share"
        self.share.mkdir()
        line = self.folder / "line"
        self.console = self.folder / "console"
        command = ["qemu-system-aarch64", "-M", "virt", "-cpu", cpu, "-smp", str(cores), "-m", str(memory_mb)]
        command += ["-nodefaults", "-nographic", "-no-reboot", "-serial", f"file:{self.console}", "-net", "none"]
        command += ["-kernel", str(image / "kernel.image"), "-initrd", str(image / "initramfs.gz")]
        command += ["-append", "console=ttyAMA0 quiet panic=-1 loglevel=4"]
        command += ["-drive", f"file={image / 'root.ext4'},format=raw,if=virtio,readonly=on"]
        for disk in disks:
            command += ["-drive", f"{disk},if=virtio" if "=" in str(disk) else f"file={disk},format=raw,if=virtio"]
        command += ["-fsdev", f"local,id=share,path={self.share},security_model=none"]
        command += ["-device", "virtio-9p-pci,fsdev=share,mount_tag=share"]
        command += ["-chardev", f"socket,id=line,path={line},server=on,wait=off", "-device", "virtio-serial-pci"]
        command += ["-device", "virtserialport,chardev=line,nr=1,name=line"]
        self.usb = self.folder / "usb"
        if usb:
            command += ["-device", "qemu-xhci", "-chardev", f"socket,id=usb,path={self.usb},server=on,wait=off"]
            command += ["-device", "usb-redir,chardev=usb"]
        self.errors = (self.folder / "errors").open("wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors)
        self.line = socket.socket(socket.AF_UNIX)
        self.received, self.asked = b"", 0
        try:
            start = time.monotonic()
            while not line.exists() and time.monotonic() < start + BOOT_S and self.process.poll() is None:
                time.sleep(0.02)
            self.line.connect(str(line))
            self._answer(BOOT_S)
        except (OSError, Failed) as error:
            report = self.report()
            self.kill()
            raise Failed(f"the board did not start: {error}\n{report}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.errors.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command, timeout=PATIENCE_S):
        """Runs a line of shell on the board; returns its output, or raises."""
        code, output = self.try_run(command, timeout)
        if code != 0:
            raise Failed(f"`{command}` ended with {code}: {output}\n{self.report()}")
        return output

    def try_run(self, command, timeout=PATIENCE_S):
        """Runs a line of shell on the board; returns its exit code and output."""
        assert "\n" not in command
        self.asked += 1
        self.line.sendall(f"{self.asked} {command}\n".encode())
        return self._answer(timeout)

    def start(self, command, name):
        """Starts a program on the board; standard output and error go to the share as NAME.out and NAME.err."""
        # Truncated here: the shell on the board does so only after it has printed the process id.
        for end in ("out", "err"):
            (self.share / f"{name}.{end}").write_bytes(b"")
        pid = self.run(f"{command} >/share/{name}.out 2>/share/{name}.err & echo $!")
        return int(pid)

    def lives(self, pid):
        """Whether a program on the board still runs."""
        return self.try_run(f"grep -q '^State:.[^Z]' /proc/{pid}/status")[0] == 0

    def kill(self):
        """Kills the board, as a power cut does."""
        self.process.kill()
        self.process.wait()
        self.line.close()

    def report(self):
        """The last lines of the kernel and QEMU."""
        console = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "console: " + console[-2000:] + "\nqemu: " + (self.folder / "errors").read_text()[-1000:]

    def _answer(self, timeout):
        """The board's answer to the last line; a late answer to an earlier line is skipped."""
        deadline = time.monotonic() + timeout
        while True:
            head, end, rest = self.received.partition(b"\n")
            if end:
                number, code, length = map(int, head.split())
                if len(rest) >= length:
                    self.received = rest[length:]
                    if number == self.asked:
                        return code, rest[:length].decode(errors="replace")
                    continue
            self._more(deadline)

    def _more(self, deadline):
        self.line.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            piece = self.line.recv(65536)
        except TimeoutError as error:
            raise Failed(f"no answer in time\n{self.report()}") from error
        if not piece:
            raise Failed(f"the board went away\n{self.report()}")
        self.received += piece
