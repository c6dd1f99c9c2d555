"""Chat: teach a language model to answer, by examples (supervised fine-tuning), whole or with adapters.

    accelerate launch recipes/chat.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft \\
        --train_file chats.jsonl
    accelerate launch recipes/chat.py ... --packing --load_in_4bit              # QLoRA, rows filled up
    accelerate launch recipes/chat.py --model_name_or_path Qwen/Qwen3-0.6B-Base --chat_template chatml ...
    accelerate launch recipes/chat.py --model_name_or_path model.gguf ...

Rows are messages ({"messages": [{"role", "content"}, ...], "tools": ...}), prompt and completion, instruction, input
and output, conversations ([{"from", "value"}, ...]), or plain text. Only what the assistant says is learnt, but for
messages with "weight": 0, as `hftrain inspect chat ...` shows before anything is trained.
"""

import math
from functools import partial
from typing import Any

from hftrain import run
from hftrain.tasks.chat import ChatRecipeConfig


def main(config: ChatRecipeConfig) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from hftrain.data.packing import Packed, pack
    from hftrain.losses import causal_language_model
    from hftrain.models import load
    from hftrain.models.freezing import freeze
    from hftrain.models.neftune import add_noise
    from hftrain.report import publish
    from hftrain.tasks import chat
    from hftrain.text.causal import collate_causal, wants_flat
    from hftrain.train import trials
    from hftrain.train.evaluation import mean_loss
    from hftrain.train.inspect import inspecting
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        template = chat.Template(load.load_tokenizer(config), config.chat_template, config.new_tokens)
        rows = chat.load_chats(config, seed=config.seed)
        examples = {name: chat.tokenize(split, template, config) for name, split in rows.items()}

    model = load.load_model(config, AutoModelForCausalLM)
    chat.fit_model(model, template, config.max_length)
    freeze(model, config.freeze)
    chats = [] if inspecting() else chat.questions(rows["test"], config.num_samples)
    answer = partial(chat.answer, accelerator, template=template, chats=chats, batch_size=config.eval_batch_size,
                     max_new_tokens=config.max_new_tokens)  # fmt: skip
    before = answer(model)
    if config.packing:
        trials.check_packing(model, int(examples["train"].lengths.max()))
    model = load.add_adapters(model, config, "CAUSAL_LM", new_tokens=template.new_ids)
    chunked = config.chunked_loss and trials.chunk_loss(model)
    if config.neftune_noise_alpha:
        add_noise(model, config.neftune_noise_alpha)
    train = examples["train"]
    if config.packing:
        train = Packed(train, pack(train.lengths, config.max_length))
    collate = partial(collate_causal, pad_token_id=template.tokenizer.pad_token_id, flat=wants_flat(model))

    def evaluate(model: Any, split: str = "validation") -> dict[str, float]:
        plain = causal_language_model(chunked=chunked)
        loss = mean_loss(accelerator, model, examples[split], config.eval_batch_size, collate=collate, loss=plain)
        return {"loss": loss, "perplexity": math.exp(loss)}

    model, results = fit(
        accelerator, model, train, config, collate=collate, processor=template.tokenizer,
        loss=causal_language_model(config.label_smoothing_factor, chunked), evaluate=evaluate,
        held_out=examples,
    )  # fmt: skip
    answers = chat.samples(chats, before=before, after=answer(model))
    report = chat.summarize(config, rows, examples, evaluate(model, "test"), answers, template.tokenizer)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, ChatRecipeConfig)
