"""A camera that is read by HTTP, in the ways that cameras send pictures, and in some in which they fail.

http_camera.py JPEG [PEM]: serves that picture, by TLS if a file with certificate and key is named. Prints its port once it listens
on the loopback interface, then a line for each request: its path, and `login` if it names a user. The user is `me`, the password
is `hunter2`.
"""

import base64
import hashlib
import pathlib
import re
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD, REALM, NONCE = "me", "hunter2", "camera", "5ccc069c403ebaf9"
JPEG = pathlib.Path(sys.argv[1]).read_bytes()
MULTIPART = "multipart/x-mixed-replace; boundary="
PAUSE = 0.05
ALGORITHMS = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


class Camera(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        print(self.path, "login" if self.headers.get("Authorization") else "", flush=True)
        name = self.path.strip("/").split("?")[0].replace("-", "_").replace(".", "_")
        self.close_connection = True
        try:
            getattr(self, f"get_{name}", lambda: self.refuse(404))()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def begin(self, kind, *headers, status=200):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def refuse(self, status, *headers):
        self.begin("text/plain", ("Content-Length", "0"), *headers, status=status)

    def frames(self, part, end=b"\r\n", write=None):
        write = write or self.wfile.write
        while True:
            write(part + JPEG + end)
            time.sleep(PAUSE)

    # As ustreamer and mjpg-streamer.
    def get_stream(self):
        self.begin(f"{MULTIPART}frame")
        self.frames(f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(JPEG)}\r\n\r\n".encode())

    # Without lengths, and with a boundary that is quoted and already has its hyphens.
    def get_bare(self):
        self.begin(f'{MULTIPART}"--frame"')
        self.frames(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n")

    # As ESP32-CAM.
    def get_chunked(self):
        self.begin(f"{MULTIPART}123456789000000000000987654321", ("Transfer-Encoding", "chunked"))

        def write(data):
            for at in range(0, len(data), 1000):
                piece = data[at:at + 1000]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")

        part = f"Content-Type: image/jpeg\r\nContent-Length: {len(JPEG)}\r\n\r\n".encode()
        self.frames(b"\r\n--123456789000000000000987654321\r\n" + part, b"", write)

    def get_boundaryless(self):
        self.begin("multipart/x-mixed-replace")
        self.frames(b"--x\r\n\r\n")

    # Says nothing of what it sends.
    def get_nameless(self):
        self.begin(None)
        self.frames(b"", b"")

    def get_slow(self):
        self.begin(f"{MULTIPART}frame")

        def write(data):
            for at in range(0, len(data), 64):
                self.wfile.write(data[at:at + 64])
                time.sleep(0.001)

        self.frames(b"--frame\r\n\r\n", write=write)

    # Ends in the middle of the third picture.
    def get_cut(self):
        self.begin(f"{MULTIPART}frame")
        part = f"--frame\r\nContent-Length: {len(JPEG)}\r\n\r\n".encode() + JPEG
        for piece in (part, part, part[:-len(JPEG) // 2]):
            self.wfile.write(piece)
            time.sleep(PAUSE)

    def get_snapshot_jpg(self):
        self.begin("image/jpeg", ("Content-Length", str(len(JPEG))))
        self.wfile.write(JPEG)

    def get_half_jpg(self):
        self.begin("image/jpeg", ("Content-Length", str(2 * len(JPEG))))
        self.wfile.write(JPEG)

    def get_endless_jpg(self):
        self.begin("image/jpeg")
        while True:
            self.wfile.write(bytes(1 << 20))

    def get_endless_header(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            self.wfile.write(b"x" * 1000)

    def get_page(self):
        self.begin("text/html", ("Content-Length", "6"))
        self.wfile.write(b"<html>")

    def get_forbidden(self):
        self.refuse(403)

    def get_busy(self):
        self.refuse(503)

    def get_basic(self):
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == expected:
            return self.get_stream()
        return self.refuse(401, ("WWW-Authenticate", f'Basic realm="{REALM}"'))

    def digest(self, algorithm):
        """RFC 7616, 3.4.1."""
        given = self.headers.get("Authorization", "")
        fields = {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', given)}

        def digest(*parts):
            return ALGORITHMS[algorithm](":".join(parts).encode()).hexdigest()

        if given.startswith("Digest ") and fields.get("nonce") == NONCE:
            expected = digest(digest(USER, REALM, PASSWORD), NONCE, fields["nc"], fields["cnonce"], "auth",
                              digest("GET", self.path))
            if (fields["username"], fields["uri"], fields["response"]) == (USER, self.path, expected):
                return self.get_snapshot_jpg()
        challenge = f'Digest realm="{REALM}", qop="auth,auth-int", algorithm={algorithm}, nonce="{NONCE}", opaque="o"'
        return self.refuse(401, ("WWW-Authenticate", challenge))

    def get_digest_md5(self):
        self.digest("MD5")

    def get_digest_sha256(self):
        self.digest("SHA-256")

    # To a name that is another host's for all that the client knows.
    def get_moved(self):
        self.refuse(302, ("Location", f"http://localhost:{self.server.server_port}/basic?moved"))

    def get_near(self):
        self.refuse(301, ("Location", "/basic"))


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
