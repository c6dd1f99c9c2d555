"""The chat template: messages as tokens, and which of them are the assistant's.

A model learns to continue what the template renders in front of an answer, so the answer's tokens must be exactly those
that come after it. Two ways find them by position, never by looking for marks in the text: the template's own mask, if
it says `{% generation %}`, or the difference between the conversation rendered up to and through a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError

from hftrain.chat.formats import Message
from hftrain.data.readers import Fault
from hftrain.losses import IGNORE

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Template:
    """A tokenizer that can render chats.

    Attributes:
        tokenizer: the one given, with the template and the new tokens; it is what has to be saved with the model.
        new_ids: ids of tokens whose embeddings have to be trained.
        end_id: the token that ends an answer.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None = None, new_tokens: Sequence[str] = ()):
        """
        Args:
            tokenizer: a `PreTrainedTokenizerBase`.
            chat_template: "chatml", or a file of Jinja; None: the tokenizer's own.
            new_tokens: to be added to the vocabulary where they are not in it yet.

        Raises:
            ValueError: there is no template, or it cannot be used: it has no end of an answer, for instance.
        """
        self.tokenizer, new_tokens = tokenizer, list(new_tokens)
        known = tokenizer.get_vocab()
        if chat_template == "chatml":
            tokenizer.chat_template = CHATML
            new_tokens += [token for token in ("<|im_start|>", "<|im_end|>") if token not in {*known, *new_tokens}]
        elif chat_template is not None:
            if not Path(chat_template).is_file():
                raise ValueError(f"chat_template {chat_template!r} is no file; it is chatml, or a file of Jinja")
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        if tokenizer.chat_template is None:
            raise ValueError(
                "the tokenizer has no chat template, as those of base models: set chat_template to chatml (its two "
                "tokens are added, and learnt, where they are missing) or to a file of Jinja"
            )
        tokenizer.split_special_tokens = False  # what the template writes around turns stands for tokens
        tokenizer.add_tokens([token for token in new_tokens if token not in known], special_tokens=True)
        self.new_ids = sorted(set(tokenizer.convert_tokens_to_ids(new_tokens)))
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError("the tokenizer has neither a pad token nor an end token: it is made for no model here")
            tokenizer.pad_token = tokenizer.eos_token  # labels are masked by position, so that it is learnt as an end
        added = tokenizer.added_tokens_decoder.items()
        self.specials = {*tokenizer.all_special_ids, *(index for index, token in added if token.special)}
        template = tokenizer.get_chat_template()
        self.marks = re.search(r"{%-?\s*generation\s*-?%}", template) is not None
        try:
            _, labels = self.encode([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}])
        except Fault as fault:
            raise ValueError(f"the chat template cannot be trained on: {fault}") from None
        self.end_id = next(label for label in reversed(labels) if label != IGNORE)

    def encode(
        self, prompt: list[Message] | str, completion: list[Message], tools: Sequence[Any] = ()
    ) -> tuple[list[int], list[int]]:
        """Token ids, and labels of the same length: the ids in the assistant's turns of `completion` and at the token
        that ends each, -100 elsewhere. A plain text (see `Chat`) is learnt whole, with an end token.

        Raises:
            Fault: the template refuses the conversation or loses a part of it, or a turn does not begin and end where
                it does when it is the last.
        """
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
            end = [] if ids[-1:] == [self.tokenizer.eos_token_id] else [self.tokenizer.eos_token_id]
            return ids + end, ids + end
        messages = prompt + completion
        text = self.render(messages, tools)
        check_whole(text, messages, tools)
        ids = self.tokens(text)
        labels = [IGNORE] * len(ids)
        for start, stop in (
            self._marked(messages, tools, len(prompt)) if self.marks else self._turns(ids, messages, tools, len(prompt))
        ):
            stop = self._end(ids, start, stop)
            labels[start:stop] = ids[start:stop]
        if not any(label != IGNORE for label in labels):
            raise Fault("nothing to learn: the chat template marks no token as the assistant's")
        return ids, labels

    def prompt_ids(self, messages: list[Message], tools: Sequence[Any] = ()) -> list[int]:
        """What generation of the next turn starts from."""
        return self.tokens(self.render(messages, tools, add_generation_prompt=True))

    def render(self, messages: list[Message], tools: Sequence[Any] = (), **kwargs: Any) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, tools=list(tools) or None, tokenize=False, **kwargs)
        except (TemplateError, TypeError, KeyError) as error:
            raise Fault(f"the chat template refuses it: {error}") from None

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _turns(
        self, ids: list[int], messages: list[Message], tools: Sequence[Any], known: int
    ) -> Iterator[tuple[int, int]]:
        """Where the assistant's turns from message `known` on begin and end, by rendering up to and through each."""
        for number, message in enumerate(messages):
            if number < known or message["role"] != "assistant":
                continue
            before = self.prompt_ids(messages[:number], tools)
            through = ids if number == len(messages) - 1 else self.tokens(self.render(messages[: number + 1], tools))
            if ids[: len(before)] != before or ids[: len(through)] != through or len(through) <= len(before):
                raise Fault(
                    f"the chat template renders message {number + 1} differently when it is the last and when others "
                    "follow (it strips, adds or reorders something): set split_turns, or mark the answers in the "
                    "template with {% generation %}"
                )
            yield len(before), len(through)

    def _marked(self, messages: list[Message], tools: Sequence[Any], known: int) -> Iterator[tuple[int, int]]:
        """Where the tokens that the template marks begin and end, without those of the first `known` messages."""
        encoded = self.tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, return_dict=True, return_assistant_tokens_mask=True
        )
        marks = np.array([0, *encoded["assistant_masks"], 0])
        if any(message["role"] == "assistant" for message in messages[:known]):
            marks[1 : 1 + len(self.prompt_ids(messages[:known], tools))] = 0
        edges = np.flatnonzero(np.diff(marks)).tolist()
        yield from zip(edges[::2], edges[1::2], strict=True)

    def _end(self, ids: list[int], start: int, stop: int) -> int:
        """The end of a turn moved behind the token that ends it: line breaks after that are not the assistant's."""
        last = next((i for i in range(stop - 1, start - 1, -1) if ids[i] in self.specials), None)
        if last is None and ids[stop : stop + 1] and ids[stop] in self.specials:  # a mask that leaves out the end
            return stop + 1
        if last is None or self.tokenizer.decode(ids[last + 1 : stop]).strip():
            raise Fault("no special token ends the assistant's turn, so the model could not learn to stop")
        return last + 1


def check_whole(text: str, messages: list[Message], tools: Sequence[Any] = ()) -> None:
    """Raises `Fault` where the rendered `text` does not say all that the conversation says, in its order."""
    position = 0
    for number, message in enumerate(messages, 1):
        calls = [call["function"]["name"] for call in message.get("tool_calls", [])]
        for part in [message["content"].strip(), *calls]:
            quoted = (part, json.dumps(part, ensure_ascii=False)[1:-1], json.dumps(part)[1:-1])
            found = next((text.find(each, position) for each in quoted if text.find(each, position) >= 0), None)
            if found is None:
                raise Fault(f"the chat template drops or changes message {number} ({message['role']}): {part!r:.60}")
            position = found
    for tool in tools:
        name = tool.get("function", tool).get("name", "")
        if name not in text:
            raise Fault(f"the chat template drops the tool {name!r}")
