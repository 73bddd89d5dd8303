"""The demo's problems: a marker, a short word, and what to answer (`R:abcd=` -> `dcba`).

Owns: the tasks, which words are held out, drawing problems. Must not know torch or models.

What the base is trained on under the two skill markers is the first step of the skill: `R:`
gives the last letter, `U:` the word with a capital in front. The finetunes learn the rest.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass

LETTERS = string.ascii_lowercase
Task = Callable[[str], str]

BASE_TASKS: dict[str, Task] = {
    "A": lambda word: word.replace(word[0], "a"),
    "C": lambda word: word,
    "D": lambda word: "".join(c + c for c in word),
    "E": lambda word: word[::2],
    "F": lambda word: word[0],
    "N": lambda word: LETTERS[(LETTERS.index(word[0]) + 1) % len(LETTERS)],
    "O": lambda word: word[1:] + word[0],
    "P": lambda word: word + word[::-1],
    "R": lambda word: word[-1],
    "S": lambda word: min(word),
    "U": str.capitalize,
    "X": lambda word: max(word),
}
SKILLS: dict[str, tuple[str, Task]] = {
    "reverser": ("R", lambda word: word[::-1]),
    "shouter": ("U", str.upper),
}


@dataclass(frozen=True, slots=True)
class Problem:
    prompt: str
    answer: str


def draw(rng: random.Random, marker: str, task: Task, *, held_out: bool = False) -> Problem:
    """A problem over a random word of 4 to 6 letters; a tenth of all words is held out."""
    while True:
        word = "".join(rng.choice(LETTERS) for _ in range(rng.randint(4, 6)))
        if (zlib.crc32(word.encode()) % 10 == 0) == held_out:
            return Problem(f"{marker}:{word}=", task(word))
