"""What fake services share: answers of any kind, and a process of their own. A module names its handler."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import PIPE, Popen
from typing import ClassVar

from tests.helpers.paths import ROOT


class Service(BaseHTTPRequestHandler):
    """Answers in JSON or bytes, remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    asked: ClassVar[list[dict]] = []
    seen: ClassVar[Counter] = Counter()

    def read(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def first_time(self, name: str, question: dict) -> bool:
        """Whether a name is met for the first time; the question is kept."""
        with self.lock:
            self.seen[name] += 1
            self.asked.append(question)
            return self.seen[name] == 1

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
def serving(module: str, *arguments: str) -> Iterator[str]:
    """A module's service in another process, as long as the block lasts; gives its address, `http://.../v1`."""
    command = [sys.executable, "-m", module, *arguments]
    with Popen(command, cwd=ROOT, stdout=PIPE, encoding="utf-8") as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def serve(handler: type[Service]) -> None:
    """Serve for ever, once the port was said."""
    server = Server(("127.0.0.1", 0), handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
