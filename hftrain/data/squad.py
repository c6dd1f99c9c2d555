"""Reader of SQuAD's JSON: articles of paragraphs, each with its questions (Rajpurkar et al., 2016, 2018)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hftrain.data.json_rows import is_lines
from hftrain.data.lines import Fault, raw_lines
from hftrain.data.readers import Item
from hftrain.data.sources import ending


def read_squad(path: Path, encoding: str | None = None) -> Iterator[Item] | None:
    """Questions as (line of the question's id, [{"id", "title", "context", "question", "answers"}]); None if the file
    is not one JSON object with "data", a list of articles, like SQuAD's.

    A question without the key "answers" has no answer; `is_impossible` and `plausible_answers` are not read.
    """
    if ending(path) != ".json" or is_lines(path, encoding):
        return None
    content = b"".join(raw for _, raw in raw_lines(path, encoding))
    try:
        articles = json.loads(content)["data"]
        if not any("paragraphs" in article for article in articles):
            return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # rows of another kind, or damaged: their reader reports it
    return _questions(path, content, articles)


def _questions(path: Path, content: bytes, articles: Iterable[Any]) -> Iterator[Item]:
    place, line = 0, 1
    try:
        for number, article in enumerate(articles, 1):
            title = article.get("title") or f"article {number}"
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    position = content.find(json.dumps(question["id"]).encode(), place)
                    if position > 0:
                        place, line = position, line + content.count(b"\n", place, position)
                    row = {"id": question["id"], "title": title, "context": paragraph["context"]}
                    yield line, [row | {"question": question["question"], "answers": question.get("answers", [])}]
    except (KeyError, TypeError, AttributeError) as error:
        missing = f"no {error}" if isinstance(error, KeyError) else str(error)
        yield line, Fault(f"not SQuAD's format, so no question after it can be read: {missing}")
