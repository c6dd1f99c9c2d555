"""Chats: rows of any format as messages, messages as tokens of which the assistant's are learnt, answers."""

from typing import TYPE_CHECKING

from hftrain.lazy import lazily

if TYPE_CHECKING:
    from hftrain.chat.examples import answer, fit_model, tokenize
    from hftrain.chat.formats import Chat, Message, as_json, load_chats, read_messages, to_chat
    from hftrain.chat.neftune import add_noise
    from hftrain.chat.report import describe_data, questions, samples, usage
    from hftrain.chat.settings import ChatConfig, SupervisedConfig
    from hftrain.chat.template import Template
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Chat",
    "ChatConfig",
    "Message",
    "SupervisedConfig",
    "Template",
    "add_noise",
    "answer",
    "as_json",
    "describe_data",
    "fit_model",
    "load_chats",
    "questions",
    "read_messages",
    "samples",
    "to_chat",
    "tokenize",
    "usage",
]
