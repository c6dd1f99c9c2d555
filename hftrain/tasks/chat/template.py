"""The chat template: messages as tokens, and which of them are the assistant's.

A model learns to continue what the template renders before an answer, so the answer's tokens must be exactly those
that follow. Two ways find them by position, never by searching the text for marks: the template's own mask, if it has
`{% generation %}`, or the difference between the conversation rendered up to a turn and through it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jinja2.exceptions import TemplateError

from hftrain.data.readers import Fault
from hftrain.losses import IGNORE
from hftrain.models import load
from hftrain.tasks.chat.messages import SYSTEM, Message, fold_system
from hftrain.tasks.chat.rows import is_learnt
from hftrain.tasks.chat.whole import Whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hftrain.tasks.chat.config import ChatModelConfig

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Marks that common templates write around turns.
MARKS = r"<\|[\w ]{2,40}\|>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|<｜[^｜>]{1,40}｜>"
BEGINS, ENDS = ("<s>", "<bos>"), ("</s>", "<eos>")  # marks around texts; inside a text they may mean anything


def load_template(config: ChatModelConfig) -> Template:
    """The tokenizer of a model, with its chat template and new tokens."""
    return Template(load.load_tokenizer(config), config.chat_template, config.new_tokens)


class Template:
    """A tokenizer that can render chats.

    Attributes:
        tokenizer: the given one, with the template and the new tokens; save it with the model.
        new_ids: ids of tokens whose embeddings must be trained.
        end_id: the token that ends an answer.
        notices: what was unusual in chats that `encode` accepted, with counts; the caller may clear it.
        warned: notices that are logged already.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None, new_tokens: Sequence[str] = ()
    ):
        """
        Args:
            chat_template: "chatml", or a file of Jinja; None: the tokenizer's own.
            new_tokens: added to the vocabulary if missing.

        Raises:
            ValueError: the tokenizer has no template, or an unusable one, for example without an end of answers.
        """
        new_tokens = list(new_tokens)
        self.tokenizer: Any = tokenizer
        vocabulary = tokenizer.get_vocab()
        if chat_template == "chatml":
            tokenizer.chat_template = CHATML
            new_tokens += [token for token in ("<|im_start|>", "<|im_end|>") if token not in {*vocabulary, *new_tokens}]
        elif chat_template is not None:
            if not Path(chat_template).is_file():
                raise ValueError(f"chat_template {chat_template!r} is not a file; set chatml, or a Jinja file")
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        if tokenizer.chat_template is None:
            raise ValueError(
                "the tokenizer has no chat template (base models have none): set chat_template to chatml (its two "
                "tokens are added and trained if missing) or to a Jinja file"
            )
        tokenizer.split_special_tokens = False  # the marks of the template must become tokens
        tokenizer.add_tokens([token for token in new_tokens if token not in vocabulary], special_tokens=True)
        self.new_ids = sorted(set(cast("list[int]", tokenizer.convert_tokens_to_ids(new_tokens))))
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError(
                    "the tokenizer has neither a pad token nor an end token: choose another tokenizer_name_or_path"
                )
            tokenizer.pad_token = tokenizer.eos_token  # labels are masked by position, so the end is still learnt
        added = tokenizer.added_tokens_decoder.items()
        self.specials = {*tokenizer.all_special_ids, *(index for index, token in added if token.special)}
        self.source = tokenizer.get_chat_template()
        self.marks = re.search(r"{%-?\s*generation\s*-?%}", self.source) is not None
        self.notices: Counter[str] = Counter()
        self.warned: set[str] = set()
        self.whole = Whole(self.render, self.notices)
        names = tokenizer.convert_ids_to_tokens(sorted(self.specials))
        self.special_names = sorted(filter(None, names), key=len, reverse=True)
        self.looks_special = re.compile("|".join([*map(re.escape, self.special_names), MARKS]))
        self.plain_marks: dict[str, bool] = {}  # whether a mark belongs to another template
        self.around: set[str] = set()  # special tokens around messages and texts
        try:
            _, labels = self.encode([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}])
        except Fault as fault:
            raise ValueError(f"the chat template cannot be trained on: {fault}") from None
        self.end_id = next(label for label in reversed(labels) if label != IGNORE)
        around = {self.end_id, *self.prompt_ids([{"role": "user", "content": "a"}])}
        self.around = {*tokenizer.all_special_tokens, *tokenizer.convert_ids_to_tokens(sorted(around))}

    def encode(
        self, prompt: list[Message] | str, completion: list[Message], tools: Sequence[Any] = ()
    ) -> tuple[list[int], list[int]]:
        """Token ids, and labels of the same length: the ids of the assistant's turns in `completion` and of the token
        that ends each, -100 elsewhere. All of a plain text (see `Chat`) is learnt, with an end token.

        Raises:
            Fault: the template refuses the conversation or loses a part of it, or it renders a turn differently when
                other turns follow.
        """
        if isinstance(prompt, str):
            ids = self._plain(prompt)
            return ids, list(ids)
        learnt = {n for n, message in enumerate(completion, len(prompt)) if is_learnt(message)}
        messages = [{key: value for key, value in m.items() if key != "weight"} for m in prompt + completion]
        if not learnt:
            raise Fault("nothing to learn: no message of the assistant is learnt")
        text = self._whole_text(messages, tools, learnt)
        self._note_marks(messages)
        ids = self.tokens(text)
        labels = [IGNORE] * len(ids)
        spans = self._marked(ids, messages, tools, learnt) if self.marks else self._turns(ids, messages, tools, learnt)
        for start, stop in spans:
            stop = self._end(ids, start, stop)
            labels[start:stop] = ids[start:stop]
        if not any(label != IGNORE for label in labels):
            raise Fault("nothing to learn: the chat template marks no token as the assistant's")
        return ids, labels

    def _plain(self, text: str) -> list[int]:
        """The text's tokens, with exactly one begin token and one end token."""
        ids, begin, end = self.tokenizer(text)["input_ids"], self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is not None and ids[:2] == [begin, begin]:
            del ids[0]
            self.notices[f"a text begins with {self.tokenizer.bos_token} already; it is not added again"] += 1
        if end is not None and ids[-2:] == [end, end]:
            del ids[-1]
        if self.specials.difference((begin, end, self.tokenizer.unk_token_id)).intersection(ids):
            self.notices[
                "a text contains the template's own marks: all of it is learnt, the user's messages too; to learn only "
                "the answers, write a list of messages"
            ] += 1
        around = [mark for mark in BEGINS if text.startswith(mark)] + [mark for mark in ENDS if text.endswith(mark)]
        self._note_foreign([*self.looks_special.findall(text), *around])
        last = next((index for index in reversed(ids) if self.tokenizer.decode([index]).strip()), None)
        return ids if last == end else [*ids, end]

    def _whole_text(self, messages: list[Message], tools: Sequence[Any], learnt: Collection[int]) -> str:
        """The rendered conversation. Raises: `Fault`, with a setting that was tried and would help."""
        try:
            text = self.render(messages, tools)
            self.whole.check(text, messages, tools, learnt)
            return text
        except Fault as fault:
            way_out = ""
            systems = any(message["role"] in SYSTEM for message in messages)
            if systems and not self._suits(messages, tools) and self._suits(messages, tools, change=fold_system):
                way_out = ": set system_to_user, which prepends the system message to the next user message"
            elif len(learnt) > 1 and all(self._suits(messages[: number + 1], tools, [number]) for number in learnt):
                way_out = ": set split_turns, which makes each answer the last message of an example"
            raise Fault(f"{fault}{way_out}") from None

    def _suits(
        self,
        messages: list[Message],
        tools: Sequence[Any],
        learnt: Collection[int] = (),
        change: Callable[[list[Message]], list[Message]] = list,
    ) -> bool:
        """Whether the template renders all of the conversation after `change`."""
        notices = self.notices.copy()
        try:
            changed = change(messages)
            self.whole.check(self.render(changed, tools), changed, tools, learnt)
        except Fault:
            return False
        finally:
            self.notices.clear()
            self.notices.update(notices)
        return True

    def _note_marks(self, messages: list[Message]) -> None:
        """Notices marks in messages that look like special tokens."""
        marks = {(mark, m["role"]) for m in messages for mark in self.looks_special.findall(m["content"])}
        for mark, role in sorted(marks):
            if mark not in self.special_names:
                continue
            if role == "assistant" and mark in self.source and mark not in self.around:
                continue  # the template expects it in answers, for example around reasoning
            self.notices[
                f"{mark!r} in a message of the role {role} becomes the special token itself: if it "
                "should stay text, write it differently, for example with a space inside"
            ] += 1
        self._note_foreign({mark for mark, _ in marks})

    def _note_foreign(self, marks: Collection[str]) -> None:
        """Notices marks of another model's template, which are plain text here."""
        foreign = []
        for mark in sorted(set(marks)):
            if mark not in self.plain_marks:
                self.plain_marks[mark] = mark not in self.tokenizer.get_vocab() and mark not in self.source
            if self.plain_marks[mark]:
                foreign.append(mark)
        if foreign:
            self.notices[
                f"{', '.join(foreign)} in a text: this looks like another model's chat template, but is plain text "
                "here; write conversations as a list of messages"
            ] += 1

    def prompt_ids(self, messages: list[Message], tools: Sequence[Any] = ()) -> list[int]:
        """The token ids from which the next turn is generated."""
        return self.tokens(self.render(messages, tools, add_generation_prompt=True))

    def render(self, messages: list[Message], tools: Sequence[Any] = (), **kwargs: Any) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, tools=list(tools) or None, tokenize=False, **kwargs)
        except (TemplateError, TypeError, LookupError, ValueError, AttributeError) as error:
            raise Fault(f"the chat template refuses the conversation: {error}") from None

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _turns(
        self, ids: list[int], messages: list[Message], tools: Sequence[Any], numbers: Collection[int]
    ) -> Iterator[tuple[int, int]]:
        """Begins and ends of the assistant's turns `numbers`, found by rendering up to and through each."""
        for number in sorted(numbers):
            before = self.prompt_ids(messages[:number], tools)
            through = ids if number == len(messages) - 1 else self.tokens(self.render(messages[: number + 1], tools))
            if ids[: len(before)] != before or ids[: len(through)] != through or len(through) <= len(before):
                raise Fault(
                    f"the chat template renders message {number + 1} differently when it is the last and when others "
                    "follow (it strips, adds or reorders something): set split_turns, or mark the answers in the "
                    "template with {% generation %}"
                )
            yield len(before), len(through)

    def _marked(
        self, ids: list[int], messages: list[Message], tools: Sequence[Any], numbers: Collection[int]
    ) -> Iterator[tuple[int, int]]:
        """Begins and ends of the tokens that the template marks in the assistant's turns `numbers`."""
        encoded = self.tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, return_dict=True, return_assistant_tokens_mask=True
        )
        marks, first = np.array([0, *encoded["assistant_masks"], 0]), min(numbers)
        if any(message["role"] == "assistant" for message in messages[:first]):
            marks[1 : 1 + len(self.prompt_ids(messages[:first], tools))] = 0
        unlearnt = [n for n, message in enumerate(messages) if message["role"] == "assistant" and n not in numbers]
        for start, stop in self._turns(ids, messages, tools, [number for number in unlearnt if number > first]):
            marks[1 + start : 1 + stop] = 0
        edges = np.flatnonzero(np.diff(marks)).tolist()
        yield from zip(edges[::2], edges[1::2], strict=True)

    def _end(self, ids: list[int], start: int, stop: int) -> int:
        """The end of a turn, just after its end token: line breaks after it do not belong to the turn."""
        last = next((i for i in range(stop - 1, start - 1, -1) if ids[i] in self.specials), None)
        if last is None and ids[stop : stop + 1] and ids[stop] in self.specials:  # the mask leaves out the end token
            return stop + 1
        if last is None or self.tokenizer.decode(ids[last + 1 : stop]).strip():
            raise Fault("no special token ends the assistant's turn, so the model cannot learn to stop")
        return last + 1
