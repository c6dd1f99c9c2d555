"""What can be set of chats."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from hftrain.config import Config, FineTuneConfig, above, at_least
from hftrain.config.defaults import Task


@dataclass
class ChatConfig(Config):
    """Conversations and how they become tokens."""

    chat_template: str | None = None
    """Template that renders the messages: a file of Jinja, or chatml; null: the tokenizer's own."""

    system_to_user: bool = False
    """Put each system message in front of what the user says next, with a blank line between; for templates that know
    no system message (Gemma's)."""

    new_tokens: list[str] = field(default_factory=list)
    """Special tokens to be added where the vocabulary lacks them. Their embeddings are trained, beside adapters too."""

    max_length: Annotated[int, at_least(2)] = 1024
    """Tokens of a conversation; longer ones are cut at the end, and counted."""

    max_new_tokens: Annotated[int, at_least(1)] = 128
    """Tokens of a generated answer at most."""


@dataclass
class SupervisedConfig(ChatConfig):
    """Supervised learning of answers."""

    task_family: ClassVar[Task] = "chat"

    dataset_format: Literal["messages", "conversations", "prompt_completion", "instruction", "text"] | None = None
    """Format of the rows: messages (OpenAI), conversations (ShareGPT), prompt_completion, instruction (Alpaca), text;
    null: what each row's columns say. Messages may call tools, which a column "tools" describes."""

    packing: bool = False
    """Put several conversations into each row of max_length tokens, kept apart; global_batch_size counts rows."""

    split_turns: bool = False
    """Make each answer an example of its own, with all that stands before it; for templates that render an answer
    differently when others follow (reasoning is stripped, for instance)."""

    neftune_noise_alpha: Annotated[float | None, above(0)] = None
    """Strength of the noise on embeddings in training (NEFTune, arXiv 2310.05914), 5 to 15; null: none."""

    freeze: list[str] = field(default_factory=list)
    """Parts of the model that are not trained, by name: embed_tokens, layers.0-3, *.bias."""

    num_samples: Annotated[int, at_least(0)] = 20
    """Held-out prompts that are answered before and after training, side by side in the report."""

    @property
    def scored_by(self) -> str:
        return "perplexity"

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.freeze and getattr(self, "use_peft", False):
            yield (
                ("freeze", "use_peft"),
                "adapters leave all weights as they are: choose one",
            )


@dataclass
class ChatRecipeConfig(SupervisedConfig, FineTuneConfig):
    """Supervised fine-tuning on conversations."""

    eval_on_start: bool = True
    """Evaluate before the first step: the report says if training changed nothing."""

    chunked_loss: bool = True
    """Never keep all logits: the same result in less memory, for models whose head allows it."""
