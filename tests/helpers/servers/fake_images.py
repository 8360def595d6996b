"""An image service to be asked: OpenAI-compatible, for a process of its own (`python -m` this module).

It says its port. It draws one colour a prompt, in the size it is asked for, except where a word of the prompt asks for
trouble: `small` half the size, `busy-once` status 429 at the first time, `fail` 500 always, `refuse` 400, `barred` 403,
`spent` 429 always, `broken` no image, `rewritten` says that it drew another text, `linked` an address on the service
itself, `nearby` its path alone, `late` an address where nothing is at the first time, `gone` one where nothing ever is,
`elsewhere` one on another host, `endless` an answer without an end, `closed` 429
that asks to be left alone for an hour, `data` base64 in lines behind `data:image/png;base64,`, `inline` the same as its
url.
`GET /v1/log` tells what was asked. The model `nobody` is unknown, `moved` elsewhere; `plain` takes no response_format,
nor does `strict`, by status 422; `stubborn` names it in every refusal.
"""

import base64
import hashlib
import io
import sys
from contextlib import AbstractContextManager

from PIL import Image

from tests.helpers.servers.fake_service import Service, serve, serving

TROUBLE = (
    "small",
    "busy-once",
    "fail",
    "refuse",
    "broken",
    "barred",
    "spent",
    "rewritten",
    "linked",
    "nearby",
    "late",
    "gone",
    "elsewhere",
    "endless",
    "closed",
    "data",
    "inline",
)


def colour(prompt: str) -> tuple[int, int, int]:
    """What a prompt is drawn in."""
    return tuple(hashlib.sha256(prompt.encode()).digest()[:3])  # type: ignore[return-value]


def picture(prompt: str, width: int, height: int) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour(prompt)).save(buffer, format="PNG")
    return buffer.getvalue()


class Images(Service):
    key = ""

    def do_GET(self):
        if self.path.endswith("/log"):
            return self.answer(200, {"asked": self.asked})
        if "gone" in self.path or ("late" in self.path and self.first_time(self.path, {})):
            return self.answer(404, {"error": "nothing here"})
        return self.send(200, picture("linked", 64, 64))

    def do_POST(self):
        body = self.read()
        facts = {"authorization": self.headers["Authorization"], "path": self.path}
        question = {**body, **facts}
        again = not self.first_time(body["prompt"], question)
        if self.key and self.headers["Authorization"] != f"Bearer {self.key}":
            return self.answer(401, {"error": "another key, please"})
        if body["model"] == "moved":
            return self.answer(308, {}, {"Location": "https://there.example/v1"})
        if body["model"] == "nobody":
            return self.answer(404, {"error": "no such model"})
        status = {"plain": 400, "strict": 422}.get(body["model"])
        if body["model"] == "stubborn" or (status and "response_format" in body):
            return self.answer(status or 400, {"error": "unknown parameter: response_format"})
        trouble = next((word for word in TROUBLE if word in body["prompt"].split()), "")
        return self.react("" if trouble.endswith("-once") and again else trouble, body)

    def react(self, trouble, body):
        width, height = map(int, body["size"].split("x"))
        if trouble in ("busy-once", "closed"):
            pause = "0" if trouble == "busy-once" else "3600"
            return self.answer(429, {"error": "slow down"}, {"Retry-After": pause})
        status = {"fail": 500, "refuse": 400, "barred": 403, "spent": 429}.get(trouble)
        if status:
            return self.answer(status, {"error": "not this one"})
        if trouble in ("nearby", "late", "gone"):
            image = {"url": f"/{trouble}/{len(self.asked)}.png"}
            return self.answer(200, {"data": [image], "usage": {"total_tokens": 7}})
        if trouble == "endless":
            return self.babble()
        if trouble in ("linked", "elsewhere"):
            host = self.headers["Host"] if trouble == "linked" else "127.0.0.1:9"
            return self.answer(200, {"data": [{"url": f"http://{host}/one.png"}]})
        if trouble == "small":
            width, height = width // 2, height // 2
        data = b"no image" if trouble == "broken" else picture(body["prompt"], width, height)
        encoded = base64.b64encode(data).decode()
        lines = f"data:image/png;base64,{base64.encodebytes(data).decode()}"
        encoded = lines if trouble == "data" else encoded
        image = {"b64_json": encoded, "revised_prompt": body["prompt"]}
        image = {"url": lines} if trouble == "inline" else image
        if trouble == "rewritten":
            image["revised_prompt"] = f"a photo of {body['prompt']}, sharp"
        return self.answer(200, {"data": [image], "usage": {"total_tokens": 7}})


def serving_images(key: str = "") -> AbstractContextManager[str]:
    """The service in another process; the block gets its address."""
    return serving("tests.helpers.servers.fake_images", key)


if __name__ == "__main__":
    Images.key = sys.argv[1]
    serve(Images)
