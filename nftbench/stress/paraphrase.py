"""GenEval's prompts in other words that mean the same: the target stays as it is. Pure: prompts in, prompts out."""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rewards.base import Prompt

LEAD = "a photo of "
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
OTHER_WORDS = {
    "and": "along with",
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "higher up than",
    "below": "lower down than",
}
"""Another way to join two things."""
DIGITS = {"two": "2", "three": "3", "four": "4"}
PAIRS = ("two_object", "color_attr")


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """What GenEval's phrasing says."""

    things: tuple[str, ...]
    """One or two, with article or number: `a red bench`, `two cows`."""
    join: str = ""
    """Of two: `and`, or how the first one lies to the second."""
    clauses: tuple[Mapping[str, Any], ...] = ()
    """Of the metadata, one a thing, in the order of things."""

    @property
    def counted(self) -> bool:
        """Whether several of one kind are asked for."""
        return self.things[0].split()[0] in DIGITS

    @property
    def text(self) -> str:
        """All things, joined."""
        return f" {self.join} ".join(self.things)


def parse(prompt: Prompt) -> Phrase | None:
    """Read a prompt of GenEval's six tasks; None where its text or metadata are phrased in another way."""
    body = prompt.text.removeprefix(LEAD)
    clauses = tuple(prompt.target.get("include", ()))
    if body == prompt.text or not clauses:
        return None
    if prompt.tag == "position":
        parts = re.split(f" ({'|'.join(INVERSE)}) ", body)
        clauses = clauses[::-1]  # GenEval names the thing that is referred to first
    elif prompt.tag in PAIRS:
        parts = re.split(" (and) ", body)
    else:
        parts = [body]
    phrase = Phrase(things=tuple(parts[::2]), join="".join(parts[1::2]), clauses=clauses)
    return phrase if _fits(phrase, prompt.tag) else None


def _fits(phrase: Phrase, tag: str) -> bool:
    """Whether the things are those of the metadata."""
    wanted = 2 if tag in ("position", *PAIRS) else 1
    if not len(phrase.things) == len(phrase.clauses) == wanted:
        return False
    if tag == "position" and phrase.clauses[0].get("position") != [phrase.join, 0]:
        return False
    return all(
        phrase.counted or thing in (_thing(clause), f"a {_named(clause)}")
        for thing, clause in zip(phrase.things, phrase.clauses, strict=True)
    )


def _named(clause: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (clause.get("color", ""), clause["class"])))


def _thing(clause: Mapping[str, Any]) -> str:
    return with_article(_named(clause))


def with_article(noun: str) -> str:
    """The noun with `a` or `an`, by its first letter."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# --- rules ----------------------------------------------------------------------------------------


def picture(phrase: Phrase) -> str | None:
    """`a picture of a bench`."""
    return f"a picture of {phrase.text}"


def showing(phrase: Phrase) -> str | None:
    """`an image showing a bench`."""
    return f"an image showing {phrase.text}"


def there_is(phrase: Phrase) -> str | None:
    """`there is a bench in the picture`; `there are two cows in the picture`."""
    return f"there {'are' if phrase.counted else 'is'} {phrase.text} in the picture"


def bare(phrase: Phrase) -> str | None:
    """`a bench`."""
    return phrase.text


def one(phrase: Phrase) -> str | None:
    """`a photo of one bench`: the number for the article; nothing where a number stands already."""
    if phrase.counted:
        return None
    things = tuple(f"one {thing.partition(' ')[2]}" for thing in phrase.things)
    return LEAD + replace(phrase, things=things).text


def order(phrase: Phrase) -> str | None:
    """`a cow left of a dog` becomes `a dog right of a cow`: roles and relation both; a pair is named the other way."""
    if len(phrase.things) == 1:
        return None
    join = INVERSE.get(phrase.join, phrase.join)
    return LEAD + replace(phrase, things=phrase.things[::-1], join=join).text


def words(phrase: Phrase) -> str | None:
    """`to the left of`, `along with`, `2 cows`; nothing where there is no such word."""
    if phrase.counted:
        number, _, rest = phrase.things[0].partition(" ")
        return f"{LEAD}{DIGITS[number]} {rest}"
    if not phrase.join:
        return None
    return LEAD + replace(phrase, join=OTHER_WORDS[phrase.join]).text


def colour_behind(phrase: Phrase) -> str | None:
    """`a bench that is red`; nothing where no colour is asked for."""
    if not all("color" in clause for clause in phrase.clauses):
        return None
    things = tuple(f"{with_article(c['class'])} that is {c['color']}" for c in phrase.clauses)
    return LEAD + replace(phrase, things=things).text


RULES: Mapping[str, Callable[[Phrase], str | None]] = {
    "picture": picture,
    "showing": showing,
    "there is": there_is,
    "bare": bare,
    "one": one,
    "order": order,
    "words": words,
    "colour behind": colour_behind,
}


def paraphrases(prompt: Prompt) -> dict[str, Prompt]:
    """A prompt in all other words that the rules have for it.

    Args:
        prompt: of GenEval, in its own phrasing.

    Returns:
        Rule -> the prompt under another text: id (and so the noise), task and target are the same, since the meaning
        is. Empty where the phrasing is not GenEval's.
    """
    phrase = parse(prompt)
    if phrase is None:
        return {}
    texts = {name: rule(phrase) for name, rule in RULES.items()}
    return {name: replace(prompt, text=text) for name, text in texts.items() if text}


def one_each(
    prompts: Sequence[Prompt], turn: int = 0, readable: Callable[[str], bool] = bool
) -> dict[str, tuple[str, Prompt]]:
    """Every prompt by one of its rules; which one depends on its id and the turn alone.

    Args:
        prompts: any; those in other phrasings are left out.
        turn: number from 0; a prompt of R rules meets each of them once in R turns, and is left out of later ones.
        readable: whether a text may be used.

    Returns:
        Prompt id -> (rule, paraphrase).
    """
    chosen = {}
    for prompt in prompts:
        found = [(r, p) for r, p in paraphrases(prompt).items() if readable(p.text)]
        if turn < len(found):
            start = zlib.crc32(prompt.id.encode())
            chosen[prompt.id] = found[(start + turn) % len(found)]
    return chosen
