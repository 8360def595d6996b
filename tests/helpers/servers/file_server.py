"""A file server in a process of its own, which can be slow, break off, lie and fail.

An address is /ROOM/HOW/NAME: NAME lies below the folder ROOM; HOW is plain (ranges are honoured), whole (ranges are
ignored), cut-N (every connection breaks after N bytes), slow (4 KiB every 20 ms), flipped (every byte wrong),
status-N (answers N), once-N (answers N, then plain). /ROOM/OWNER/NAME/resolve/REVISION/FILE answers as a model hub.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import ClassVar


@dataclass
class Room:
    """A folder that is served, and what was asked of it."""

    url: str
    folder: Path

    def requests(self) -> list[dict]:
        """Every request so far, once all are answered."""
        while True:
            log = self.folder / "log"
            lines = log.read_text().splitlines() if log.is_file() else []
            found = [json.loads(line) for line in lines]
            ended = [request for request in found if "code" in request]
            if 2 * len(ended) == len(found):
                return ended
            time.sleep(0.005)

    def sent(self) -> int:
        return sum(request["sent"] for request in self.requests())


@contextmanager
def serving(folder: Path) -> Iterator[Iterator[Room]]:
    """Starts a server; `next` of what it yields is a new room."""
    command = [sys.executable, __file__, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    try:
        port = int(process.stdout.readline())
        yield (_room(folder / f"room{i}", f"http://127.0.0.1:{port}/room{i}") for i in count())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def online(room: Room, monkeypatch, files: dict[str, bytes]) -> Room:
    """A room that holds these files; the network is on."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, data in files.items():
        (room.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (room.folder / name).write_bytes(data)
    return room


def _room(folder: Path, url: str) -> Room:
    folder.mkdir(parents=True)
    return Room(url, folder)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()
    seen: ClassVar = set()
    lock = threading.Lock()

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass

    def answer(self):
        room, *parts = self.path.lstrip("/").split("/")
        self.sent = self.code = 0
        line = {"method": self.command, "path": "/".join(parts)}
        line["range"] = self.headers.get("Range", "")
        self.note(room, line)
        try:
            if "resolve" in parts:
                self.hub(self.folder.joinpath(room, *parts[4:]), revision=parts[3])
            else:
                self.serve(parts[0], self.folder.joinpath(room, *parts[1:]))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        self.note(room, line | {"sent": self.sent, "code": self.code})

    def note(self, room, line):
        with self.lock, (self.folder / room / "log").open("a") as log:
            log.write(f"{json.dumps(line)}\n")

    def begin(self, code, length, **headers):
        self.code = code
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def hub(self, file, revision):
        if not file.is_file():
            return self.begin(404, 0, X_Error_Code="EntryNotFound")
        if self.command == "GET":
            return self.serve("plain", file)
        data = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        lfs = file.suffix == ".safetensors"
        etag = hashlib.sha256(data).hexdigest() if lfs else git
        return self.begin(200, len(data), X_Repo_Commit=revision, ETag=f'"{etag}"')

    def serve(self, how, file):
        kind, _, number = how.partition("-")
        first = (how, file) not in self.seen
        self.seen.add((how, file))
        if kind == "status" or (kind == "once" and first):
            return self.begin(int(number), 0)
        if not file.is_file():
            return self.begin(404, 0)
        data = file.read_bytes()
        if kind == "flipped":
            data = bytes(byte ^ 255 for byte in data)
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and kind != "whole" else 0
        if start and start >= len(data):
            return self.begin(416, 0)
        body = data[start:]
        span = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self.begin(206 if start else 200, len(body), **span)
        if kind == "cut" and len(body) > int(number):
            body = body[: int(number)]
            self.close_connection = True
        for at in range(0, len(body), 4096):
            self.wfile.write(body[at : at + 4096])
            self.sent += len(body[at : at + 4096])
            if kind == "slow":
                time.sleep(0.02)


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    os.write(1, f"{server.server_address[1]}\n".encode())
    server.serve_forever()
