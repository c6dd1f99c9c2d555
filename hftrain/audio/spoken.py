"""Written text as it is spoken: one Unicode form, lower case, abbreviations and numbers as words."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Normaliser = Literal["english", "lower", "none"]
# as in the texts of LJSpeech
SHORT = {
    "mr": "mister",
    "mrs": "missis",
    "dr": "doctor",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "drs": "doctors",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
}
ABBREVIATION = re.compile(rf"\b({'|'.join(SHORT)})\.", re.I)
SIGNS = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."})


def spoken(text: str, normaliser: Normaliser) -> str:
    """The text that is read out. english: abbreviations and numbers become words (with transformers'
    EnglishNumberNormalizer); english and lower: lower case, plain quotes and dashes, single spaces; none: unchanged.

    Ordinals, dates and times are not expanded: write them as words.
    """
    if normaliser == "none":
        return text
    text = unicodedata.normalize("NFKC", text).translate(SIGNS)
    if normaliser == "english":
        from transformers.models.speecht5.number_normalizer import EnglishNumberNormalizer

        text = ABBREVIATION.sub(lambda match: SHORT[match[1].lower()], text)
        text = EnglishNumberNormalizer()(text)
    return " ".join(text.lower().split())
