"""A judge to be judged by: an OpenAI-compatible chat server, a process of its own (`python -m` this module).

It says its port. What it answers follows from the caption: marks from the picture's mean brightness, except where a
word of the caption asks for trouble: `fail`, `hang`, `nonsense` always; `fail-once`, `hang-once` at the first time;
`refuse` (status 400), `empty` (no chat completion), `endless` (an answer without an end).
`GET /log` tells what was asked, without the pictures.
"""

import base64
import io
import re
import time
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image

from tests.helpers.servers.fake_service import Service, serve, serving

HANG = 30.0
"""Seconds: longer than any test waits."""
TROUBLE = ("fail-once", "hang-once", "fail", "hang", "nonsense", "refuse", "empty", "endless")


def mark(picture: np.ndarray) -> float:
    """From 1 for black to 5 for white, three digits."""
    return round(1 + 4 * float(picture.mean()) / 255, 3)


class Judge(Service):
    key = "flowgrpo"

    def do_GET(self):
        if self.path.endswith("/log"):
            return self.answer(200, {"asked": self.asked})
        if self.headers["Authorization"] != f"Bearer {self.key}":
            return self.answer(401, {"error": "another key, please"})
        return self.answer(200, {"data": [{"id": "fake"}]})

    def do_POST(self):
        body = self.read()
        (picture, text) = body["messages"][0]["content"]
        caption = re.search(r"Text Caption: \[(.*)\]", text["text"], re.DOTALL)[1]
        trouble = next((word for word in TROUBLE if word in caption.split()), "")
        question = {**body, "messages": text["text"], "headers": dict(self.headers)}
        question["path"] = self.path
        again = not self.first_time(caption, question)
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


def judging() -> AbstractContextManager[str]:
    """The server in another process; the block gets its address."""
    return serving("tests.helpers.servers.fake_judge")


if __name__ == "__main__":
    serve(Judge)
