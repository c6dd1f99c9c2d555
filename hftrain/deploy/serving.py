"""Compares the tokens and greedy answers of a server with the test vectors of an exported model."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hftrain.deploy.export import Vector

VECTORS = "test_vectors.json"  # in an exported folder


@dataclass
class Answer:
    """A server's response to one test vector; None for facts that it does not return."""

    prompt_ids: list[int] | None
    prompt_tokens: int | None
    output: str


@dataclass
class Verdict:
    """The result of one test vector."""

    problems: list[str]  # empty: the server gives the same answer as the export
    notes: list[str]  # differences that rounding explains
    compared: str  # how the prompt was compared: its "tokens", their "number", or "nothing"


def read_vectors(path: str | Path) -> list[Vector]:
    """Test vectors from a file or an exported folder.

    Raises:
        ValueError: the file does not exist.
    """
    path = Path(path)
    path = path / VECTORS if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist: `hftrain export` writes the test vectors")
    from hftrain.deploy.export import Vector

    return [Vector(**vector) for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]]


def check_server(
    url: str,
    vectors: Sequence[Vector],
    tokenizer: PreTrainedTokenizerBase,
    *,
    model: str | None = None,
    near: float = 0.05,
    timeout: float = 600,
) -> list[Verdict]:
    """Compares an OpenAI-compatible server with test vectors.

    Args:
        url: address of the server, with or without /v1.
        tokenizer: the export's, which finds the token at which two answers differ.
        model: the server's name of the model; None: the one it lists.
        near: answers may differ from a token on whose logit leads by less, since rounding decides there.
        timeout: seconds for each answer.

    Raises:
        ValueError: the server cannot be reached, or returns an error.
    """
    server = url.rstrip("/").removesuffix("/v1")
    if model is None:
        way_out = "choose it with --model (for `transformers serve FOLDER` it is FOLDER as you wrote it)"
        try:
            listed = [entry["id"] for entry in ask(f"{server}/v1/models", None, timeout)["data"]]
        except ValueError as error:
            raise ValueError(f"{error}; if it serves a model, {way_out}") from error
        if len(listed) != 1:
            raise ValueError(f"{url} serves {', '.join(listed) or 'no model by name'}: {way_out}")
        model = listed[0]
    return [judge(vector, answer(server, model, vector, timeout), tokenizer, near) for vector in vectors]


def answer(server: str, model: str, vector: Vector, timeout: float) -> Answer:
    request = {"model": model, "temperature": 0, "max_tokens": len(vector.output_ids), "stream": False}
    if vector.messages:
        response = ask(f"{server}/v1/chat/completions", request | {"messages": vector.messages}, timeout)
        output = response["choices"][0]["message"]["content"] or ""
    else:
        response = ask(f"{server}/v1/completions", request | {"prompt": vector.prompt}, timeout)
        output = response["choices"][0]["text"]
    return Answer(tokens(server, model, vector, timeout), (response.get("usage") or {}).get("prompt_tokens"), output)


def tokens(server: str, model: str, vector: Vector, timeout: float) -> list[int] | None:
    """The server's own tokens of the prompt, if it has an endpoint for them: vLLM, SGLang, llama.cpp."""
    text = {"prompt": vector.prompt, "content": vector.prompt, "add_special_tokens": False, "add_special": False}
    chat = {"messages": vector.messages, "add_generation_prompt": True} if vector.messages else {}
    for body in ([chat] if chat else []) + [text | {"parse_special": True}]:
        try:
            ids = ask(f"{server}/tokenize", {"model": model, **body}, timeout).get("tokens")
        except ValueError:
            continue
        if ids:
            return ids
    return None


def judge(vector: Vector, answer: Answer, tokenizer: Any, near: float) -> Verdict:
    problems, notes = [], []
    if answer.prompt_ids is not None and answer.prompt_ids != vector.prompt_ids:
        at = parting(answer.prompt_ids, vector.prompt_ids)
        problems.append(
            f"the prompt's tokens differ from token {at} on: {answer.prompt_ids[at : at + 5]} instead of "
            f"{vector.prompt_ids[at : at + 5]} ({tokenizer.decode(vector.prompt_ids[at : at + 5])!r})"
        )
    elif answer.prompt_tokens not in (None, len(vector.prompt_ids)):
        problems.append(
            f"the prompt has {answer.prompt_tokens} tokens on the server, but {len(vector.prompt_ids)} here"
        )
    if answer.output != vector.output:
        texts = (
            tokenizer.decode(vector.output_ids[:k], skip_special_tokens=True) for k in range(len(vector.output_ids) + 1)
        )
        at = max((k for k, text in enumerate(texts) if answer.output.startswith(text)), default=0)
        at = min(at, len(vector.output_ids) - 1)
        difference = f"the answers differ from token {at} on: {answer.output!r} instead of {vector.output!r}"
        if vector.margins[at] < near:
            notes.append(f"{difference}; a near tie (margin {vector.margins[at]:.3f}), which rounding decides")
        else:
            problems.append(f"{difference} (margin {vector.margins[at]:.3f})")
    compared = "nothing" if answer.prompt_tokens is None else "number"
    return Verdict(problems, notes, compared if answer.prompt_ids is None else "tokens")


def parting(first: Sequence[int], second: Sequence[int]) -> int:
    """The first place where two sequences differ."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def ask(url: str, body: dict[str, Any] | None, timeout: float) -> Any:
    """GET, or POST with a JSON body -> JSON.

    Raises:
        ValueError: there is no server, no JSON, or an HTTP error, with the server's message.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url} answers {error.code}: {error.read().decode(errors='replace')[:500]}") from error
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{url} cannot be reached: {error}") from error
