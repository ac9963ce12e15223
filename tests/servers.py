"""A web server on this machine whose faults are chosen, and which counts what is asked of it."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40  # of everything that is pushed here


@dataclass
class Served:
    """One file. Each item of a list is one answer's fault; when the list is used up, the answers are whole."""

    body: bytes = b""
    etag: str = '"first"'
    status: list = field(default_factory=list)  # statuses of the first answers; those from 400 on have no file
    cut: list = field(default_factory=list)  # bytes after which the first answers with a file end
    hold: list = field(default_factory=list)  # bytes after which they wait for server.release
    ranges: bool = True
    blind: bool = False  # to If-Range
    announced: bool = True  # Content-Length
    headers: dict = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        file = server.files.get(self.path)
        status = file.status.pop(0) if file and file.status else 200 if file else 404
        headers = dict(file.headers if file else server.absent)
        if status == 200:
            body, status, more = self.part(file)
            headers = {"ETag": file.etag, **more, **headers}
            headers |= {"Content-Length": len(body)} if file.announced else {}
        else:
            body = b""
            headers |= {"Content-Length": 0}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET" and body:
            self.send(file, body)

    def do_POST(self):
        """Answer as the Hugging Face hub answers ``create_repo`` and ``upload_folder``."""
        server, path = self.server, self.path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.asked.append((self.command, path, self.headers.get("Authorization", "")))
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self.answer({"url": server.url(f"/{json.loads(body)['organization']}/{json.loads(body)['name']}")})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in zip(names, modes, strict=True)]
            self.answer({"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            found = [
                {**o, "actions": {"upload": {"href": server.url(f"/lfs/{o['oid']}")}}}
                for o in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": found})
        elif commit := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self.commit(commit[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": f"no such address {path}"}, 404)

    def do_PUT(self):
        self.server.asked.append((self.command, self.path, ""))
        self.server.uploads[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def commit(self, repo, lines):
        """Keep the files of a commit where the hub would let one download them."""
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                body = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                body = self.server.uploads[f"/lfs/{value['oid']}"]
                assert hashlib.sha256(body).hexdigest() == value["oid"]
            else:
                continue
            etag, headers = hashlib.sha256(body).hexdigest(), {"X-Repo-Commit": COMMIT}
            self.server.files[f"/{repo}/resolve/main/{value['path']}"] = Served(body, etag=f'"{etag}"', headers=headers)
        self.answer({"success": True, "commitOid": COMMIT, "commitUrl": self.server.url(f"/{repo}/commit/{COMMIT}")})

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def part(self, file):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = file.blind or self.headers.get("If-Range", file.etag) == file.etag
        if not asked or not file.ranges or not same:
            return file.body, 200, {}
        start = int(asked[1])
        if start >= len(file.body):
            return b"", 416, {"Content-Range": f"bytes */{len(file.body)}"}
        return file.body[start:], 206, {"Content-Range": f"bytes {start}-{len(file.body) - 1}/{len(file.body)}"}

    def send(self, file, body):
        end = file.cut.pop(0) if file.cut else len(body)
        pause = file.hold.pop(0) if file.hold else end
        with contextlib.suppress(OSError):  # the other side may be dead, that is the test
            for piece in (body[:pause], body[pause:end]):
                self.server.sent += len(piece)  # before the other side has them and looks at the sum
                self.wfile.write(piece)
                if piece and pause < end and piece == body[:pause]:
                    self.server.release.wait(30)

    def log_message(self, *_):
        """Say nothing: stderr is looked at by tests."""


@contextlib.contextmanager
def serving(context=None):
    """Yield a server: ``files`` by path, ``asked``, ``sent`` bytes, ``url(path)``; ``context`` is TLS's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.asked, server.sent, server.absent = {}, [], 0, {}
    server.uploads, server.token = {}, ""
    server.release = threading.Event()
    scheme = "http"
    if context:
        scheme, server.socket = "https", context.wrap_socket(server.socket, server_side=True)
    server.url = lambda path="": f"{scheme}://127.0.0.1:{server.server_port}{path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
