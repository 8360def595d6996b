"""A model hub on this machine: folders served as repositories, with branches, gates and missing things.

A process of its own, for the hub's client keeps state. `OWNER/NAME/REVISION/...` below the folder are the files;
a file `OWNER/NAME/gated` closes a repository to everybody without the token, `OWNER/NAME/busy` its lists of files.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

TOKEN = "hf_let_me_in"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Starts the hub; yields its address."""
    command = [sys.executable, __file__, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def commit_of(revision: str) -> str:
    """The commit that a branch points to."""
    return hashlib.sha1(revision.encode()).hexdigest()


def git_digest(data: bytes) -> str:
    """Of a file's content, as git names it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *_):
        pass

    def answer(self):
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            if self.folder.joinpath(*parts[2:4], "busy").exists():
                return self.reply(503, b"")
            what = self.tree if "tree" in parts[4:5] else self.info
            return what("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        if len(parts) < 5 or parts[2] != "resolve":
            return self.reply(404, b"")
        repository = "/".join(parts[:2])
        return self.file(repository, parts[3], "/".join(parts[4:]))

    def root(self, repository, revision):
        """The folder of a revision; None after an answer that there is none."""
        home = self.folder / repository
        if not home.is_dir():
            return self.reply(401, b"", X_Error_Code="RepoNotFound")
        if (home / "gated").exists() and TOKEN not in self.headers.get("Authorization", ""):
            return self.reply(403, b"", X_Error_Code="GatedRepo")
        names = {commit_of(p.name): p for p in home.iterdir() if p.is_dir()}
        found = names.get(revision, home / revision)
        if not found.is_dir():
            return self.reply(404, b"", X_Error_Code="RevisionNotFound")
        return found

    def info(self, repository, revision):
        if root := self.root(repository, revision):
            names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
            about = {
                "id": repository,
                "modelId": repository,
                "sha": commit_of(root.name),
                "tags": [],
                "siblings": [{"rfilename": n} for n in names],
            }
            self.reply(200, json.dumps(about).encode(), Content_Type="application/json")

    def tree(self, repository, revision):
        if root := self.root(repository, revision):
            files = [p for p in sorted(root.rglob("*")) if p.is_file()]
            listed = [
                {
                    "type": "file",
                    "path": p.relative_to(root).as_posix(),
                    "size": p.stat().st_size,
                    "oid": git_digest(p.read_bytes()),
                }
                for p in files
            ]
            self.reply(200, json.dumps(listed).encode(), Content_Type="application/json")

    def file(self, repository, revision, name):
        if root := self.root(repository, revision):
            headers = {"X_Repo_Commit": commit_of(root.name)}
            if not (root / name).is_file():
                return self.reply(404, b"", X_Error_Code="EntryNotFound", **headers)
            data = (root / name).read_bytes()
            self.reply(200, data, ETag=f'"{git_digest(data)}"', **headers)

    def reply(self, code, data, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    os.write(1, f"{server.server_address[1]}\n".encode())
    server.serve_forever()
