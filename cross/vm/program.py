"""`spotter run` on a virtual board, seen through its JSON output."""

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
        """Reads the new output."""
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
        """Waits for a line that fulfils `condition`, after the last one that was waited for, and returns it."""

        def found():
            self.poll()
            while self.seen < len(self.lines):
                self.seen += 1
                if condition(self.lines[self.seen - 1]):
                    return self.lines[self.seen - 1]
            return None

        return self._until(found, timeout, lambda: f"no {what} within {timeout} s: {self.lines[-2:]}")

    def _until(self, found, timeout, failure):
        """Calls `found` until it returns something, and returns that. After the program's end there is one more call: its last output
        may have come after the call before."""
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
        """Waits until the log contains `text`, which another thread writes, perhaps a moment after a line."""
        self._until(lambda: text in self.log.read_text(), timeout, lambda: f"{text!r} is not in the log")

    def numbers(self):
        """Statistics of the frames labelled so far."""
        return [line["frame"] for line in self.lines if "frame" in line]

    def resident_kb(self, peak=False):
        """The resident memory of the program, now or at its peak."""
        name = "VmHWM" if peak else "VmRSS"
        return int(self.machine.run(f"grep {name} /proc/{self.pid}/status").split()[1])

    def end(self):
        """Stops it as a service manager does; kills it if it does not end, so that the next test finds the camera free."""
        pid = self.pid
        gone = f"i=0; while kill -0 {pid} 2>/dev/null; do [ $i -lt 6000 ] || exit 1; usleep 20000; i=$((i+1)); done"
        if self.machine.try_run(f"kill {pid}; {gone}", 2 * PATIENCE_S)[0] != 0:
            at = self.machine.try_run(f"cat /proc/{pid}/task/*/wchan; kill -9 {pid}")[1]
            raise AssertionError(f"{self.path.stem} does not end; its threads are in {at}: {self.log.read_text()[-2000:]}")
