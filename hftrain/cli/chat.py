"""`hftrain chat`: talk to a trained model in the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.cli.commands import Commands
from hftrain.cli.predict import add_base
from hftrain.cli.trust import trust_option
from hftrain.terminal import hush_libraries, visible

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


HELP = "/exit ends, /new begins a new conversation, Ctrl-C stops an answer"


def add(commands: Commands) -> None:
    command = commands.add_parser("chat", help="talk to a trained model", epilog=f"In the conversation: {HELP}.")
    command.add_argument("folder", metavar="OUT", type=Path, help="the output folder of a run: a model or an adapter")
    command.add_argument("--system", metavar="TEXT", help="a system message that begins the conversation")
    command.add_argument(
        "--max_new_tokens", type=int, metavar="N", default=512, help="maximum tokens of an answer (default: 512)"
    )
    command.add_argument(
        "--temperature", type=float, metavar="T", default=0.0, help="sampling temperature; 0, the default: no sampling"
    )
    command.add_argument(
        "--top_p", type=float, metavar="P", default=1.0, help="sample from this share of the probability (default: 1)"
    )
    command.add_argument("--seed", type=int, metavar="N", help="of sampling")
    add_base(command)
    command.add_argument("--device", help='"cpu", "cuda:1", ... (default: the accelerator if there is one)')
    trust_option(command)
    command.set_defaults(command=chat)


def chat(args: argparse.Namespace) -> int:
    """A message a line on standard input, until /exit or its end; the answers stream to standard output."""
    from hftrain.data.files import require_model

    require_model(args.folder)  # before torch is imported
    hush_libraries()
    if args.seed is not None:
        from transformers import set_seed

        set_seed(args.seed)
    model, tokenizer = load(args.folder, args.device, args.base, args.trust_remote_code)
    if tokenizer.chat_template is None:
        if args.system:
            raise ValueError(f"{args.folder} has no chat template, so it cannot use --system")
        print("this model has no chat template: it continues your text", file=sys.stderr)
    start = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(start)
    search: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "do_sample": args.temperature > 0}
    if args.temperature > 0:
        search |= {"temperature": args.temperature, "top_p": args.top_p}
    if sys.stdin.isatty():
        print(f"{args.folder} ({HELP})", file=sys.stderr)
    while (line := read_line()) not in (None, "/exit"):
        if line == "/new":
            messages = list(start)
        elif line:
            messages.append({"role": "user", "content": line})
            forget(messages, model, tokenizer, args.max_new_tokens)
            messages.append({"role": "assistant", "content": say(model, tokenizer, messages, search)})
    return 0


def load(folder: Path, device: str | None, base: str | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The model, and its saved tokenizer."""
    from hftrain.models import saved as saved

    config = saved.read_config(folder, base, trust_remote_code=trust_remote_code)
    if not saved.kind(folder, config).endswith(("CausalLM", "CAUSAL_LM")):
        raise ValueError(f"{folder} contains a {saved.kind(folder, config)}, which cannot chat: use hftrain predict")
    model, tokenizer, _ = saved.load(saved.Saved(folder, config, device, trust_remote_code), "AutoModelForCausalLM")
    return model, tokenizer


def read_line() -> str | None:
    """A line of standard input; None at its end, or at Ctrl-C."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """The prompt of the answer: the conversation, or without a chat template only the last line. A system message
    that the template refuses is prepended to the first user message."""
    from jinja2.exceptions import TemplateError

    from hftrain.tasks.chat import fold_system

    if tokenizer.chat_template is None:
        return tokenizer(messages[-1]["content"])["input_ids"]
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        if messages[0]["role"] != "system":
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        return prompt_ids(tokenizer, fold_system(messages))  # like training with system_to_user


def forget(
    messages: list[dict[str, str]], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> None:
    """Drops the oldest turns, with a message, until the conversation and an answer fit into the model's positions."""
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    first = 1 if messages[0]["role"] == "system" else 0
    while len(prompt_ids(tokenizer, messages)) + max_new_tokens > room and len(messages) > first + 2:
        del messages[first : first + 2]
        print(f"the oldest turn is dropped: the model reads only {room} tokens", file=sys.stderr)


def say(model: Any, tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], search: dict[str, Any]) -> str:
    """The answer, shown while it is generated; if Ctrl-C stops it, the part that was shown."""
    import torch
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        shown = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.shown += text
            super().on_finalized_text(visible(text), stream_end)

    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = torch.tensor([prompt_ids(tokenizer, messages)], device=model.device)
    try:
        with torch.no_grad():
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, num_beams=1,
                pad_token_id=tokenizer.pad_token_id, **search,
            )  # fmt: skip
    except KeyboardInterrupt:
        print()
    return streamer.shown
