"""`spotter` with a real camera driver: vivid, under Debian's arm64 kernel. SPOTTER_VM names what image.sh made."""

import json
import os
import pathlib
import time
import unittest

import camera
from bundles import archive, export
from camera import DEVICE, Camera
from machine import Machine
from program import Run

# Rounding to 8 bits of YUV and back again; a wrong matrix or range is off by 12 or more.
TOLERANCE = 3

# Time limit for frames to come back after a lost camera works again; one of some tries must meet it on a busy machine.
RECOVERY_S = 3.0
TRIES = 3

FORMATS = ["yuyv", "uyvy", "nv12", "rgb24", "grey"]

SLOW = os.environ.get("SPOTTER_SLOW") == "1"

# Labelled frames over which memory must not grow: of the demo model in the slow form, else more frames of a tiny one.
MANY_FRAMES = 600 if SLOW else 1000
TINY = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/tiny/checkpoint"

# Faults that the driver can simulate.
COLORS = [
    {},
    {"quantization": "Full Range"},
    {"quantization": "Limited Range"},
    {"colorspace": "Rec. 709"},
    {"colorspace": "Rec. 709", "quantization": "Full Range"},
    {"colorspace": "SMPTE 170M"},
    {"y_cbcr_encoding": "Rec. 709"},
    {"colorspace": "Rec. 709", "y_cbcr_encoding": "ITU-R 601"},
]
DEFAULTS = {"colorspace": "sRGB", "quantization": "Default", "y_cbcr_encoding": "Default"}


class CameraTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = cls.enterClassContext(Machine(os.environ["SPOTTER_VM"]))
        cls.camera = Camera(cls.machine)

    def setUp(self):
        self.camera.set(test_pattern="75% Colorbar", **DEFAULTS)

    def snapshot(self, format):
        (self.machine.share / "format.toml").write_text(f'[capture]\nformat = "{format}"\n')
        said = self.machine.run(
            f"spotter snapshot --skip 1 --config /share/format.toml --source {DEVICE} /share/picture.ppm")
        self.assertIn(f"640x480 {format.upper()}", said)
        return camera.read_ppm(self.machine.share / "picture.ppm")

    def check_picture(self, format, pattern):
        expected = camera.PATTERNS[pattern]
        expected = camera.grey(expected) if format == "grey" else expected
        found, where = camera.worst(self.snapshot(format), expected)
        self.assertLessEqual(found, TOLERANCE, where)
        return found

    def test_patterns_in_every_format(self):
        for pattern in camera.PATTERNS:
            self.camera.set(test_pattern=pattern)
            for format in FORMATS:
                with self.subTest(pattern=pattern, format=format):
                    print(f"{pattern}, {format}: off by at most {self.check_picture(format, pattern)}")

    def test_colors_are_what_the_driver_says(self):
        for colors in COLORS:
            self.camera.set(**{**DEFAULTS, **colors})
            for format in FORMATS:
                # vivid draws grey in full range even if it reports another.
                if format == "grey" and "Limited" in colors.get("quantization", ""):
                    continue
                with self.subTest(colors=colors, format=format):
                    self.check_picture(format, "75% Colorbar")

    def check_recovery(self, begin, end=None, lost="", event="source_lost", arguments="", timeout=300, ends_late=False):
        """Injects a fault into a running stream, ends it if it does not end by itself, and waits for frames.

        It is taken to end when the call that makes or ends it begins, or with `ends_late` when that call returns.
        """
        for number in range(TRIES):
            seconds = self.recovery(begin, end, lost, event, arguments, timeout, ends_late)
            if seconds <= RECOVERY_S:
                return
            print(f"try {number}: too late")
        self.fail(f"frames again only after {seconds:.2f} s")

    def recovery(self, begin, end, lost, event, arguments, timeout, ends_late):
        """As above; returns the seconds from the end of the fault to frames."""
        run, fault, ended = Run(self.machine, arguments), self.id().split(".")[-1], True
        try:
            run.frames(5)
            start, ended = time.monotonic(), not end
            self.machine.run(begin)
            told = run.event(event, timeout)
            self.assertIn(lost, told["message"])
            if end:
                time.sleep(1.5)
                start, ended = time.monotonic(), True
                self.machine.run(end)
                if ends_late:
                    start = time.monotonic()
            if event == "source_lost":
                # Reported with the first captured frame. How fast that is labelled depends on the emulated CPU.
                back = run.event("source_back")
                self.assertIn("vivid", back["message"])
            seconds = time.monotonic() - start
            run.frames(1)
            print(f"{fault}: {told['message']}; frames again after {seconds:.2f} s, labelled after "
                  f"{time.monotonic() - start:.2f} s")
            numbers = run.numbers()
            self.assertEqual(numbers, sorted(set(numbers)), "frames are counted on")
            self.assertTrue(self.machine.lives(run.pid), "the same process")
            run.wait_log(told["message"])
            self.assertNotIn("panicked", run.log.read_text())
            return seconds
        finally:
            # Other tests must not find it.
            if not ended:
                self.machine.run(end)
            run.end()

    def fault(self, *controls):
        return f"v4l2-ctl -d {DEVICE} -c " + ",".join(f"{control}=1" for control in controls)

    def test_disconnect(self):
        self.check_recovery(self.fault("disconnect"), lost="cannot read a frame: No such device")

    def test_fatal_streaming_error(self):
        self.check_recovery(self.fault("inject_fatal_streaming_error"), lost="cannot read a frame: Input/output error")

    def test_queueing_error(self):
        self.check_recovery(self.fault("inject_vidioc_qbuf_error"), lost="cannot read a frame: Invalid argument")

    def test_errors_of_reopening(self):
        """Faults that occur when a stream is set up, so it must be lost first."""
        for control in ["inject_vidioc_reqbufs_error", "inject_vidioc_streamon_error"]:
            with self.subTest(control=control):
                self.check_recovery(self.fault(control, "inject_fatal_streaming_error"), lost="Input/output error")

    def test_damaged_frames(self):
        self.check_recovery(self.fault("inject_v4l2_buf_flag_error"), lost="the driver marked it as damaged",
                            event="frames_skipped")

    def test_nothing_but_damaged_frames(self):
        """Some seconds of them lose the source: 30 frames in a row, of a camera that is slowed down so that every frame is damaged."""
        (self.machine.share / "slow.toml").write_text("[capture]\nfps = 1\ntimeout_ms = 20000\n")
        damage = self.fault("inject_v4l2_buf_flag_error")
        loop = f"{{ while [ -e /tmp/damage ]; do {damage}; done; }} >/dev/null 2>&1 &"
        begin = f"touch /tmp/damage; {loop} {loop}"
        end = "rm /tmp/damage; while pgrep v4l2-ctl >/dev/null; do usleep 10000; done"
        self.check_recovery(begin, end, "broken frames in a row, the last because the driver marked it as damaged",
                            arguments="--config /share/slow.toml", timeout=600, ends_late=True)

    def test_dropped_frames(self):
        dropped = f"v4l2-ctl -d {DEVICE} -c percentage_of_dropped_buffers="
        self.check_recovery(dropped + "100", dropped + "0", lost="no frame within 2.0 s")

    def test_unbound_driver(self):
        driver = "/sys/bus/platform/drivers/vivid"
        try:
            self.check_recovery(f"echo vivid.0 >{driver}/unbind", f"echo vivid.0 >{driver}/bind", lost="No such device")
        finally:
            self.camera.wait()
            self.camera.set(osd_text_mode="None")

    def test_faults_at_the_start(self):
        """A camera that cannot be set up or started at first is retried."""
        for control, message in [
            ("inject_vidioc_reqbufs_error", "/dev/video0: cannot map the buffers: Invalid argument"),
            ("inject_vidioc_streamon_error", "/dev/video0: cannot start the stream: Invalid argument"),
        ]:
            with self.subTest(control=control):
                self.machine.run(self.fault(control))
                run = Run(self.machine, "--frames 3")
                try:
                    self.assertIn(message, run.event("source_lost")["message"])
                    self.assertIn("vivid", run.event("source_back")["message"])
                    run.frames(3)
                    # Frames are counted from 0; on a busy machine the next one may come before the first is processed.
                    first = next(line for line in run.lines if "frame" in line)
                    self.assertLessEqual(first["frame"], first["dropped"])
                    self.assertNotIn("panicked", run.log.read_text())
                finally:
                    run.end()

    def test_what_does_not_pass_ends_the_start(self):
        """A missing camera, or one that another program uses, is an immediate error."""
        ended, said = self.machine.try_run("spotter run --source /dev/video9 --frames 1 2>&1")
        self.assertEqual((ended, "/dev/video9: not found" in said), (1, True), said)
        run = Run(self.machine)
        try:
            run.frames(1)
            ended, said = self.machine.try_run(f"spotter run --source {DEVICE} --frames 1 2>&1")
            self.assertEqual((ended, "the camera is busy" in said), (1, True), said)
        finally:
            run.end()

    def test_doctor_knows_the_camera(self):
        (self.machine.share / "doctor.toml").write_text(f'source = "{DEVICE}"\n')
        ended, said = self.machine.try_run(
            "STATE_DIRECTORY=/tmp/state spotter doctor --json --config /share/doctor.toml 2>/tmp/doctor.err", 600)
        found = json.loads(said)
        [camera] = found["cameras"]
        self.assertEqual((camera["path"], camera["name"]), (DEVICE, "vivid (vivid)"), camera)
        self.assertIsNone(camera["problem"])
        for format in ["YUYV 640x480 at 25 fps", "NV12 640x480", "GREY 640x480"]:
            self.assertTrue(any(offer.startswith(format) for offer in camera["formats"]), camera["formats"])
        self.assertEqual(found["cpu"]["kernels"], "dotprod", "what the Cortex-A76 of this board has")
        problems = [finding for finding in found["findings"] if finding["severity"] == "problem"]
        self.assertEqual(ended, 1 if problems else 0)
        self.assertFalse([problem for problem in problems if "video" in problem["what"]], problems)
        # The same node while it is in use, and a missing one.
        run = Run(self.machine)
        try:
            run.frames(1)
            said = self.machine.try_run("STATE_DIRECTORY=/tmp/other spotter doctor --config /share/doctor.toml 2>&1", 600)[1]
            self.assertIn(f"{DEVICE}: vivid (vivid)", said)
        finally:
            run.end()
        (self.machine.share / "doctor.toml").write_text('source = "/dev/video9"\n')
        ended, said = self.machine.try_run(
            "STATE_DIRECTORY=/tmp/other spotter doctor --config /share/doctor.toml 2>&1", 600)
        self.assertEqual(ended, 1, said)
        self.assertIn("/dev/video9: the configured camera does not exist", said)

    def test_bundle_changes_while_it_streams(self):
        """Another bundle becomes active: no frame is lost, and the camera stays open."""
        for name, scale in [("first", 10.0), ("second", 50.0)]:
            archive(self.machine.share / f"{name}.tar", name, scale)
        state = "/tmp/slots"
        run = Run(self.machine, state=state)
        try:
            run.frames(5)
            for name in ["first", "second"]:
                said = self.machine.run(
                    f"STATE_DIRECTORY={state} spotter bundle install --activate /share/{name}.tar 2>&1", 600)
                self.assertIn(f"{name} is active now", said)
                self.assertEqual(run.event("bundle_loaded")["message"], name)
                run.frames(5)
            self.machine.run(f"STATE_DIRECTORY={state} spotter bundle rollback")
            self.assertEqual(run.event("bundle_loaded")["message"], "first")
            run.frames(5)
            run.poll()
            # After a minute without a change, the picture counts as frozen.
            kinds = [line["event"] for line in run.lines if "message" in line and line["event"] != "view_lost"]
            self.assertEqual(kinds, ["bundle_loaded"] * 3)
            scales = [round(label["logit"] / label["cosine"]) for line in run.lines if "frame" in line
                      for label in line["labels"][:1]]
            self.assertEqual([scale for i, scale in enumerate(scales) if not i or scale != scales[i - 1]][1:],
                             [10, 50, 10])
            frames = [line for line in run.lines if "frame" in line]
            numbers = run.numbers()
            self.assertEqual(numbers, sorted(set(numbers)))
            # Every captured frame is labelled or counted as dropped; more were dropped while the last one was processed.
            self.assertGreaterEqual(frames[-1]["dropped"], frames[-1]["frame"] + 1 - len(frames))
        finally:
            run.end()

    def test_labels_change_while_it_streams(self):
        def labels(*names):
            text = "".join(f'[[label]]\nname = "{name}"\n' for name in names)
            (self.machine.share / "labels.toml").write_text(text)
            # Renamed within one folder, as an editor does.
            self.machine.run("cp /share/labels.toml /tmp/labels.new && mv /tmp/labels.new /tmp/labels.toml")

        first, second = ["red circle", "blue star"], ["green square", "black heart", "an empty room"]
        labels(*first)
        run = Run(self.machine, "--labels /tmp/labels.toml")
        try:
            run.frames(5)
            labels(*second)
            names = lambda line: sorted(label["name"] for label in line.get("labels", []))
            run.wait(lambda line: names(line) == sorted(second), "frame with the new labels")
            # A broken file changes nothing.
            self.machine.run("echo '[[label' >/tmp/labels.toml")
            run.wait_log("/tmp/labels.toml:1:")
            run.frames(5)
            run.poll()
            found = [names(line) for line in run.lines if "frame" in line]
            self.assertEqual([set_ for i, set_ in enumerate(found) if not i or set_ != found[i - 1]],
                             [sorted(first), sorted(second)])
            self.assertFalse([line for line in run.lines if "message" in line], "no frame was lost")
        finally:
            run.end()

    def test_memory_stays(self):
        """Many labelled frames; resident memory does not grow after the first quarter."""
        # Small frames and a tiny model take less time on the emulated CPU; per-frame state is the same.
        export(TINY, self.machine.share / "tiny")
        (self.machine.share / "small.toml").write_text("[capture]\nwidth = 320\nheight = 180\n")
        run = Run(self.machine, "--config /share/small.toml" + ("" if SLOW else " --bundle /share/tiny"))
        try:
            few = MANY_FRAMES // 4
            run.wait(lambda _: len(run.numbers()) >= few, f"frame {few}", 600)
            before = run.resident_kb()
            run.wait(lambda _: len(run.numbers()) >= MANY_FRAMES, f"frame {MANY_FRAMES}", 2400)
            after = run.resident_kb()
            print(f"resident after {few} labelled frames {before} kB, after {MANY_FRAMES} {after} kB")
            # The allocator may still settle by a few pages.
            self.assertLessEqual(after - before, 256)
        finally:
            run.end()


if __name__ == "__main__":
    unittest.main(verbosity=2)
