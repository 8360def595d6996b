"""A judge to be judged by: an OpenAI-compatible chat server for `python fake_judge.py`, in a process of its own.

It says its port. What it answers follows from the caption: marks from the picture's mean brightness, except where a
word of the caption asks for trouble: `fail`, `hang`, `nonsense` always; `fail-once`, `hang-once` at the first time;
`refuse` (status 400), `empty` (no chat completion), `endless` (an answer without an end).
`GET /log` tells what was asked, without the pictures.
"""

import base64
import io
import json
import re
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, Popen
from typing import ClassVar

import numpy as np
from PIL import Image

HANG = 30.0
"""Seconds: longer than any test waits."""
TROUBLE = ("fail-once", "hang-once", "fail", "hang", "nonsense", "refuse", "empty", "endless")


def mark(picture: np.ndarray) -> float:
    """From 1 for black to 5 for white, three digits."""
    return round(1 + 4 * float(picture.mean()) / 255, 3)


class Judge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    asked: ClassVar[list[dict]] = []
    seen: ClassVar[Counter] = Counter()
    key = "flowgrpo"

    def do_GET(self):
        if self.path.endswith("/log"):
            return self.answer(200, {"asked": self.asked})
        if self.headers["Authorization"] != f"Bearer {self.key}":
            return self.answer(401, {"error": "another key, please"})
        return self.answer(200, {"data": [{"id": "fake"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (picture, text) = body["messages"][0]["content"]
        caption = re.search(r"Text Caption: \[(.*)\]", text["text"], re.DOTALL)[1]
        trouble = next((word for word in TROUBLE if word in caption.split()), "")
        with self.lock:
            self.seen[caption] += 1
            again = self.seen[caption] > 1
            self.asked.append({**body, "messages": text["text"], "headers": dict(self.headers)})
        self.react("" if trouble.endswith("-once") and again else trouble, picture, text["text"])

    def react(self, trouble, picture, text):
        if trouble.startswith("hang"):
            time.sleep(HANG)
        if trouble.startswith("fail"):
            return self.answer(500, {"error": "out of memory"})
        if trouble == "refuse":
            return self.answer(400, {"error": "the picture is not to my liking"})
        if trouble == "endless":
            return self.babble()
        if trouble == "empty":
            return self.answer(200, {"choices": []})
        reply = "What a lovely picture." if trouble == "nonsense" else self.reply(picture, text)
        return self.answer(200, {"choices": [{"message": {"content": reply}}]})

    def reply(self, picture, text):
        encoded = picture["image_url"]["url"].partition(",")[2]
        value = mark(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))))
        if "Style Score (1-5)" in text:
            marks = {"Alignment": value, "Coherence": 6 - value, "Style": 3.0}
            return "\n".join(f"{axis} Score (1-5): {each}" for axis, each in marks.items())
        return f"A picture.\nFinal Score: {value}"

    def answer(self, status, content):
        data = json.dumps(content).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have gone
            self.send_response(status)
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
def judging():
    """The server in another process, as long as the block lasts; gives its address, `http://.../v1`."""
    with Popen([sys.executable, str(Path(__file__))], stdout=PIPE, encoding="utf-8") as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Judge)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
