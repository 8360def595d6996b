"""An image service to be asked: OpenAI-compatible, for `python fake_images.py`, in a process of its own.

It says its port. It draws one colour a prompt, in the size it is asked for, except where a word of the prompt asks for
trouble: `small` half the size, `busy-once` status 429 at the first time, `fail` 500 always, `refuse` 400, `broken` no
image, `linked` an address on the service itself, `elsewhere` one on another host, `endless` an answer without an end.
`GET /v1/log` tells what was asked. The model `nobody` is unknown, `plain` takes no response_format.
"""

import base64
import hashlib
import io
import json
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen
from typing import ClassVar

from PIL import Image

TROUBLE = ("small", "busy-once", "fail", "refuse", "broken", "linked", "elsewhere", "endless")


def colour(prompt: str) -> tuple[int, int, int]:
    """What a prompt is drawn in."""
    return tuple(hashlib.sha256(prompt.encode()).digest()[:3])  # type: ignore[return-value]


def picture(prompt: str, width: int, height: int) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour(prompt)).save(buffer, format="PNG")
    return buffer.getvalue()


class Images(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    asked: ClassVar[list[dict]] = []
    seen: ClassVar[Counter] = Counter()
    key = ""

    def do_GET(self):
        if self.path.endswith("/log"):
            return self.answer(200, {"asked": self.asked})
        return self.send(200, picture("linked", 64, 64))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.seen[body["prompt"]] += 1
            again = self.seen[body["prompt"]] > 1
            self.asked.append({**body, "authorization": self.headers["Authorization"]})
        if self.key and self.headers["Authorization"] != f"Bearer {self.key}":
            return self.answer(401, {"error": "another key, please"})
        if body["model"] == "nobody":
            return self.answer(404, {"error": "no such model"})
        if body["model"] == "plain" and "response_format" in body:
            return self.answer(400, {"error": "unknown parameter: response_format"})
        trouble = next((word for word in TROUBLE if word in body["prompt"].split()), "")
        return self.react("" if trouble.endswith("-once") and again else trouble, body)

    def react(self, trouble, body):
        width, height = map(int, body["size"].split("x"))
        if trouble == "busy-once":
            return self.answer(429, {"error": "slow down"}, {"Retry-After": "0"})
        if trouble in ("fail", "refuse"):
            return self.answer(500 if trouble == "fail" else 400, {"error": "not this one"})
        if trouble == "endless":
            return self.babble()
        if trouble in ("linked", "elsewhere"):
            host = self.headers["Host"] if trouble == "linked" else "127.0.0.1:9"
            return self.answer(200, {"data": [{"url": f"http://{host}/one.png"}]})
        if trouble == "small":
            width, height = width // 2, height // 2
        data = b"no image" if trouble == "broken" else picture(body["prompt"], width, height)
        encoded = base64.b64encode(data).decode()
        return self.answer(200, {"data": [{"b64_json": encoded}], "usage": {"total_tokens": 7}})

    def answer(self, status, content, headers=()):
        self.send(status, json.dumps(content).encode(), dict(headers))

    def send(self, status, data, headers=()):
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have gone
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def babble(self):
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 65536)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        """Who asked may have gone; that is no news."""


@contextmanager
def serving_images(key: str = ""):
    """The service in another process, as long as the block lasts; gives its address, `http://.../v1`."""
    command = [sys.executable, str(Path(__file__)), key]
    with Popen(command, stdout=PIPE, encoding="utf-8") as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    Images.key = sys.argv[1]
    server = Server(("127.0.0.1", 0), Images)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
