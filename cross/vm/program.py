"""`spotter run` on a virtual board, as its lines of JSON tell of it."""

import json
import time

from camera import DEVICE
from machine import PATIENCE_S


class Run:
    """`spotter run` on the board, and the lines that it has printed."""

    def __init__(self, machine, arguments="", source=DEVICE, state="/tmp/state", name="run"):
        self.machine, self.path = machine, machine.share / f"{name}.out"
        self.log = machine.share / f"{name}.err"
        self.read, self.seen, self.lines = 0, 0, []
        command = f"STATE_DIRECTORY={state} spotter run --source '{source}' --output json {arguments}"
        self.pid = machine.start(command, name)

    def poll(self):
        """Takes in what was printed since."""
        with self.path.open("rb") as file:
            file.seek(self.read)
            new = file.read()
        end = new.rfind(b"\n") + 1
        for line in new[:end].splitlines():
            try:
                self.lines.append(json.loads(line))
            except ValueError as error:
                raise AssertionError(f"no JSON in {self.path.name} from byte {self.read} on: {new[:end]}") from error
        self.read += end

    def wait(self, condition, what, timeout=PATIENCE_S):
        """Waits for a line, after the last that was waited for, of which `condition` holds, and gives it."""

        def found():
            self.poll()
            while self.seen < len(self.lines):
                self.seen += 1
                if condition(self.lines[self.seen - 1]):
                    return self.lines[self.seen - 1]
            return None

        return self._until(found, timeout, lambda: f"no {what} within {timeout} s: {self.lines[-2:]}")

    def _until(self, found, timeout, failure):
        """Calls `found` until it gives something, and gives that. A program that ended is looked at once more: what it printed
        last may have come after the look before."""
        deadline, over = time.monotonic() + timeout, False
        while not (result := found()):
            if over:
                raise AssertionError(f"{failure()}; the log ends: {self.log.read_text()[-2000:]}")
            over = time.monotonic() > deadline or not self.machine.lives(self.pid)
            if not over:
                time.sleep(0.02)
        return result

    def frames(self, count):
        for _ in range(count):
            self.wait(lambda line: "frame" in line, "frame")

    def event(self, kind, timeout=PATIENCE_S):
        return self.wait(lambda line: line.get("event") == kind, kind, timeout)

    def wait_log(self, text, timeout=PATIENCE_S):
        """Waits until the log tells `text`: another thread writes it, perhaps a moment after a line."""
        self._until(lambda: text in self.log.read_text(), timeout, lambda: f"{text!r} is not in the log")

    def numbers(self):
        """Of the frames labelled so far."""
        return [line["frame"] for line in self.lines if "frame" in line]

    def resident_kb(self, peak=False):
        """The memory that the program takes now, or the most that it took."""
        name = "VmHWM" if peak else "VmRSS"
        return int(self.machine.run(f"grep {name} /proc/{self.pid}/status").split()[1])

    def end(self):
        """Ends it as a service manager does. Where it does not end, it is killed, so that the camera is free for what follows."""
        pid = self.pid
        gone = f"i=0; while kill -0 {pid} 2>/dev/null; do [ $i -lt 6000 ] || exit 1; usleep 20000; i=$((i+1)); done"
        if self.machine.try_run(f"kill {pid}; {gone}", 2 * PATIENCE_S)[0] != 0:
            at = self.machine.try_run(f"cat /proc/{pid}/task/*/wchan; kill -9 {pid}")[1]
            raise AssertionError(f"{self.path.stem} does not end; its threads are in {at}: {self.log.read_text()[-2000:]}")
