"""Chats: rows of any format as messages, messages as tokens with the assistant's as labels, answers."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.metrics.perplexity import readings
    from hftrain.tasks.chat.config import ChatConfig, ChatRecipeConfig, SupervisedConfig
    from hftrain.tasks.chat.examples import tokenize
    from hftrain.tasks.chat.messages import Message, fold_system, read_messages, read_tools
    from hftrain.tasks.chat.model import fit_model, load_chat_model
    from hftrain.tasks.chat.report import judge, questions, samples, summarize, usage
    from hftrain.tasks.chat.rows import UNREAD_ADVICE, Chat, as_json, load_chats, to_chat
    from hftrain.tasks.chat.scoring import answer
    from hftrain.tasks.chat.template import Template, load_template
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "UNREAD_ADVICE",
    "Chat",
    "ChatConfig",
    "ChatRecipeConfig",
    "Message",
    "SupervisedConfig",
    "Template",
    "answer",
    "as_json",
    "fit_model",
    "fold_system",
    "judge",
    "load_chat_model",
    "load_chats",
    "load_template",
    "questions",
    "read_messages",
    "read_tools",
    "readings",
    "samples",
    "summarize",
    "to_chat",
    "tokenize",
    "usage",
]
