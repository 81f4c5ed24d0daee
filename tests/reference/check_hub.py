"""Checks that `model-prep` and Python's huggingface_hub find what the other has downloaded, without a network.

    python check_hub.py --model-prep target/debug/model-prep

A hub on this machine serves the demo checkpoint as `owner/demo`. Python downloads it and model-prep exports it offline; model-prep
downloads it and Python finds it offline. Both bundles must be the same. Needs huggingface_hub, which comes with transformers.
"""

import argparse
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "model-prep/demo/checkpoint"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PYTHON = """
import huggingface_hub, sys
print(huggingface_hub.snapshot_download("owner/demo", local_files_only=len(sys.argv) > 1))
"""


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: the list of files, and each file with its hash in the headers."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        files = {file.name: file.read_bytes() for file in DEMO.iterdir() if file.is_file()}
        headers, content, status = {}, b"", 200
        if path.startswith("/api/models/owner/demo/revision/"):
            siblings = []
            for name, data in files.items():
                entry = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
                if name.endswith(".safetensors"):
                    digest = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
                siblings.append(entry)
            content = json.dumps({"id": "owner/demo", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith("/owner/demo/resolve/") and path.split("/", 5)[5] in files:
            name = path.split("/", 5)[5]
            content = files[name]
            digest = hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else git_hash(content)
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        else:
            headers, status = {"X-Error-Code": "RepoNotFound"}, 404
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-prep", type=pathlib.Path, required=True)
    args = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = args.model_prep.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def run(cache, offline, command):
            hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(folder / cache), "NO_PROXY": "*"}
            environment = {**os.environ, **hub, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
            return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout

        def export(out):
            return [program, "export", "owner/demo", "--weights", "f32", "--out", folder / out]

        run("python", False, [sys.executable, "-c", PYTHON])
        run("python", True, export("from-python"))
        run("own", False, export("from-own"))
        found = pathlib.Path(run("own", True, [sys.executable, "-c", PYTHON, "offline"]).strip())
        assert found == folder / "own/hub/models--owner--demo/snapshots" / COMMIT, found
        assert (found / "model.safetensors").read_bytes() == (DEMO / "model.safetensors").read_bytes()
        for file in (folder / "from-python").iterdir():
            assert file.read_bytes() == (folder / "from-own" / file.name).read_bytes(), f"{file.name} differs"
    print("model-prep and huggingface_hub find what the other has downloaded")


if __name__ == "__main__":
    main()
