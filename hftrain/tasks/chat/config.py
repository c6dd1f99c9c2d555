"""Settings of chats."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from hftrain.config import Config, FineTuneConfig, Usual, above, at_least
from hftrain.config.defaults import Task


@dataclass
class ChatConfig(Config):
    """How conversations become tokens."""

    chat_template: str | None = None
    """Chat template: a Jinja file, or chatml; null: the tokenizer's own."""

    system_to_user: bool = False
    """Prepend each system message to the next user message, with a blank line between; for templates without system
    messages (Gemma's)."""

    new_tokens: list[str] = field(default_factory=list)
    """Special tokens to add to the vocabulary if they are missing. Their embeddings are trained, also when adapters
    are."""

    max_length: Annotated[int, at_least(2)] = Usual(1024)
    """Maximum tokens of a conversation; longer ones are truncated at the end, and counted."""

    max_new_tokens: Annotated[int, at_least(1)] = 128
    """Maximum tokens of a generated answer."""


@dataclass
class ChatModelConfig(ChatConfig, FineTuneConfig):
    """A pretrained model that learns from chats."""


@dataclass
class SupervisedConfig(ChatConfig):
    """Supervised fine-tuning on answers."""

    task_family: ClassVar[Task] = "chat"

    dataset_format: Literal["messages", "conversations", "prompt_completion", "instruction", "text"] | None = None
    """Format of the rows: messages (OpenAI), conversations (ShareGPT), prompt_completion, instruction (Alpaca), text;
    null: detected from the columns of each row. Messages may call tools that a column "tools" describes."""

    packing: bool = False
    """Pack several conversations into each sequence of max_length tokens, without attention between them;
    global_batch_size counts sequences."""

    split_turns: bool = False
    """Make each answer a separate example with everything before it; for templates that render an answer differently
    when more messages follow (for example by stripping the reasoning)."""

    neftune_noise_alpha: Annotated[float | None, above(0)] = None
    """Strength of the noise on embeddings in training (NEFTune, arXiv 2310.05914), usually 5 to 15; null: no noise."""

    freeze: list[str] = field(default_factory=list)
    """Parameters to freeze, by name: embed_tokens, layers.0-3, *.bias."""

    num_samples: Annotated[int, at_least(0)] = 20
    """Number of held-out prompts that are answered before and after training; the report shows both answers."""

    @property
    def scored_by(self) -> str:
        return "perplexity"

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.freeze and getattr(self, "use_peft", False):
            yield (
                ("freeze", "use_peft"),
                "adapters freeze all other weights already: set one of the two",
            )


@dataclass
class ChatRecipeConfig(SupervisedConfig, ChatModelConfig):
    """Supervised fine-tuning on conversations."""

    eval_on_start: bool = True
    """Evaluate before the first step, so that the report can say whether training changed the loss."""

    chunked_loss: bool = True
    """Compute the loss in chunks without keeping all logits: same result, less memory, if the model's head allows
    it."""
