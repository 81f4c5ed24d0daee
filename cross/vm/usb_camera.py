"""An emulated USB camera with MJPEG, for QEMU's usb-redir device.

The board's kernel sees a camera of the USB Video Class on its bus and drives it with `uvcvideo`. It can be unplugged and
plugged in again, and gives whatever frames it is told to. Protocols: usbredir 0.7, USB 2.0, USB Video Class 1.0 with one
bulk endpoint.
"""

import collections
import socket
import struct
import threading
import time

NAME = "MJPEG test camera"

# The usbredir messages in use.
HELLO, CONNECT, DISCONNECT, RESET, INTERFACES, ENDPOINTS = 0, 1, 2, 3, 4, 5
SET_CONFIGURATION, GET_CONFIGURATION, CONFIGURATION = 6, 7, 8
SET_ALTERNATE, GET_ALTERNATE, ALTERNATE = 9, 10, 11
CANCEL, CONTROL_DATA, BULK_DATA = 21, 100, 101
# Capabilities that both sides need for a USB 3 port: packet sizes are announced, message numbers have 64 bits, and lengths of
# bulk transfers 32.
CAPABILITIES = 1 << 4 | 1 << 5 | 1 << 6
OK, CANCELLED, STALL = 0, 1, 4
HIGH_SPEED = 2
CONTROL, BULK, NONE = 0, 2, 255

# Endpoint of the video stream, and its interface; interface 0 has the camera's controls.
PICTURES, STREAMING = 0x81, 1
PACKET = 512
# One transfer of the driver is one payload of the class.
PAYLOAD = 16384
FRAME_BYTES_MAX = 2 * 640 * 480


def descriptors(width, height, fps):
    """Of the device, and of its one configuration."""
    device = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0xEF, 2, 1, 64, 0x1209, 0x0001, 0x0100, 1, 2, 0, 1)
    interval = 10_000_000 // fps
    camera = bytes([17, 0x24, 2, 1]) + struct.pack("<HBBHHHBH", 0x0201, 0, 0, 0, 0, 0, 2, 0)
    to_usb = bytes([9, 0x24, 3, 2]) + struct.pack("<HBBB", 0x0101, 0, 1, 0)
    length = 13 + len(camera) + len(to_usb)
    control = struct.pack("<BBBHHIBB", 13, 0x24, 1, 0x0100, length, 48_000_000, 1, STREAMING) + camera + to_usb
    format = bytes([11, 0x24, 6, 1, 1, 1, 1, 0, 0, 0, 0])
    frame = struct.pack("<BBBBBHHIIIIBI", 30, 0x24, 7, 1, 0, width, height, FRAME_BYTES_MAX * 8, FRAME_BYTES_MAX * 8 * fps,
                        FRAME_BYTES_MAX, interval, 1, interval)  # fmt: skip
    color = bytes([6, 0x24, 13, 1, 1, 4])
    length = 14 + len(format) + len(frame) + len(color)
    streaming = struct.pack("<BBBBHBBBBBBBB", 14, 0x24, 1, 1, length, PICTURES, 0, 2, 0, 0, 0, 1, 0)
    streaming += format + frame + color
    body = bytes([8, 11, 0, 2, 14, 3, 0, 2])
    body += bytes([9, 4, 0, 0, 0, 14, 1, 0, 2]) + control
    body += bytes([9, 4, STREAMING, 0, 1, 14, 2, 0, 0]) + streaming
    body += struct.pack("<BBBBHB", 7, 5, PICTURES, 2, PACKET, 0)
    return device, struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0x80, 250) + body


def bulk_header(status, length):
    return struct.pack("<BBHIH", PICTURES, status, length & 0xFFFF, 0, length >> 16)


def wanted_bytes(payload):
    """Size limit of a bulk transfer."""
    return payload[2] | payload[3] << 8 | payload[8] << 16 | payload[9] << 24


class UsbCamera:
    """The camera. `frames` gives the next frame's bytes each time it is called; (bytes, True) for one that the camera itself
    marks as damaged."""

    def __init__(self, path, frames, width=640, height=480, fps=15):
        self.frames, self.fps, self.size = frames, fps, (width, height)
        self.device, self.configuration = descriptors(width, height, fps)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.lock = threading.Lock()
        self.waiting = collections.deque()  # Transfers that the driver wants filled.
        self.pieces = collections.deque()  # Payloads of the frame under way.
        self.plugged, self.paused, self.parity, self.due = False, False, 0, time.monotonic()
        self.sent = 0
        self.ended = threading.Event()
        # The number of this message still has 32 bits.
        hello = b"spotter test".ljust(64, b"\0") + struct.pack("<I", CAPABILITIES)
        self.socket.sendall(struct.pack("<III", HELLO, len(hello), 0) + hello)
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._film)]
        for thread in self.threads:
            thread.start()

    def plug_in(self):
        self.plugged = True
        self._tell_parts()
        self._send(CONNECT, 0, struct.pack("<BBBBHH", HIGH_SPEED, 0xEF, 2, 1, 0x1209, 0x0001))

    def unplug(self):
        self.plugged = False
        with self.lock:
            self.waiting.clear()
            self.pieces.clear()
        self._send(DISCONNECT, 0, b"")

    def close(self):
        self.ended.set()
        self.socket.close()

    def _send(self, kind, id, payload):
        with self.lock:
            try:
                self.socket.sendall(struct.pack("<IIQ", kind, len(payload), id) + payload)
            except OSError:
                self.ended.set()

    def _tell_parts(self):
        fill = lambda values: bytes(values) + bytes(32 - len(values))
        self._send(INTERFACES, 0, struct.pack("<I", 2) + fill([0, STREAMING]) + fill([14, 14]) + fill([1, 2]) + bytes(32))
        # Endpoints 0 to 15 out, then 0 to 15 in.
        types = [NONE] * 32
        types[0] = types[16] = CONTROL
        types[16 + (PICTURES & 15)] = BULK
        interfaces = [0] * 32
        interfaces[16 + (PICTURES & 15)] = STREAMING
        packets = [0] * 32
        packets[0] = packets[16] = 64
        packets[16 + (PICTURES & 15)] = PACKET
        self._send(ENDPOINTS, 0, bytes(types) + bytes(32) + bytes(interfaces) + struct.pack("<32H", *packets))

    def _read(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise OSError("the board went away")
            data += piece
        return data

    def _listen(self):
        try:
            _, length, _ = struct.unpack("<III", self._read(12))
            self._read(length)
            while True:
                kind, length, id = struct.unpack("<IIQ", self._read(16))
                self._answer(kind, id, self._read(length))
        except OSError:
            self.ended.set()

    def _answer(self, kind, id, payload):
        if kind == SET_CONFIGURATION:
            self._tell_parts()
            self._send(CONFIGURATION, id, bytes([OK, payload[0]]))
        elif kind == GET_CONFIGURATION:
            self._send(CONFIGURATION, id, bytes([OK, 1]))
        elif kind == SET_ALTERNATE:
            self._send(ALTERNATE, id, bytes([OK, payload[0], payload[1]]))
        elif kind == GET_ALTERNATE:
            self._send(ALTERNATE, id, bytes([OK, payload[0], 0]))
        elif kind == CONTROL_DATA:
            self._control(id, payload)
        elif kind == BULK_DATA and payload[0] == PICTURES:
            with self.lock:
                self.waiting.append((id, wanted_bytes(payload)))
        elif kind == CANCEL:
            with self.lock:
                found = [wanted for wanted in self.waiting if wanted[0] == id]
                for wanted in found:
                    self.waiting.remove(wanted)
            if found:
                self._send(BULK_DATA, id, bulk_header(CANCELLED, 0))

    def _control(self, id, payload):
        endpoint, request, kind, _, value, index, length = struct.unpack("<BBBBHHH", payload[:10])
        answer = self._asked(request, kind, value, index)
        status = STALL if answer is None else OK
        data = (answer or b"")[:length] if kind & 0x80 else b""
        length = len(data) if kind & 0x80 else length
        self._send(CONTROL_DATA, id, struct.pack("<BBBBHHH", endpoint, request, kind, status, value, index, length) + data)

    def _asked(self, request, kind, value, index):
        """The answer to a control request; `None` for an unknown one."""
        if (kind, request) == (0x80, 6):
            return {
                0x0100: self.device,
                0x0200: self.configuration,
                0x0300: bytes([4, 3, 9, 4]),
                0x0302: bytes([2 + 2 * len(NAME), 3]) + NAME.encode("utf-16-le"),
            }.get(value)
        if kind & 0x7F in (0, 1, 2) and request in (0, 1, 3):
            return b"\0\0"
        # Probe and commit of the streaming interface: there is nothing to choose.
        if kind & 0x7F == 0x21 and index & 0xFF == STREAMING and value >> 8 in (1, 2):
            if request == 0x86:
                return b"\x03"
            if request == 0x85:
                return struct.pack("<H", 26)
            interval = 10_000_000 // self.fps
            return struct.pack("<HBBIHHHHHII", 1, 1, 1, interval, 0, 0, 0, 0, 0, FRAME_BYTES_MAX, PAYLOAD)
        return None

    def _film(self):
        """Fills the driver's transfers, frame by frame, at the camera's rate."""
        while not self.ended.wait(0.002):
            while True:
                with self.lock:
                    if not self.plugged or self.paused or not self.waiting:
                        break
                    if not self.pieces and time.monotonic() < self.due:
                        break
                if not self.pieces:
                    self._next_frame()
                with self.lock:
                    if not self.waiting or not self.pieces:
                        break
                    (id, length), piece = self.waiting.popleft(), self.pieces.popleft()
                self._send(BULK_DATA, id, bulk_header(OK, len(piece)) + piece)
                assert len(piece) <= length

    def _next_frame(self):
        frame, damaged = self.frames(), False
        if isinstance(frame, tuple):
            frame, damaged = frame
        self.due = max(self.due + 1 / self.fps, time.monotonic() - 1 / self.fps)
        self.parity ^= 1
        room = PAYLOAD - 2
        parts = [frame[i : i + room] for i in range(0, len(frame), room)] or [b""]
        with self.lock:
            for i, part in enumerate(parts):
                last = i == len(parts) - 1
                self.pieces.append(bytes([2, self.parity | last << 1 | damaged << 6 | 0x80]) + part)
            self.sent += 1
