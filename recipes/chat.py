"""Chat: teach a language model to answer, by examples (supervised fine-tuning), whole or with adapters.

    accelerate launch recipes/chat.py --model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct --use_peft \\
        --train_file chats.jsonl
    accelerate launch recipes/chat.py ... --packing --load_in_4bit              # QLoRA, rows filled up
    accelerate launch recipes/chat.py --model_name_or_path Qwen/Qwen3-0.6B-Base --chat_template chatml ...
    accelerate launch recipes/chat.py --model_name_or_path model.gguf ...

Rows are messages ({"messages": [{"role", "content"}, ...], "tools": ...}), prompt and completion, instruction, input
and output, conversations ([{"from", "value"}, ...]), or plain text. Only what the assistant says is learnt, but for
messages with "weight": 0, as `hftrain inspect chat ...` shows before anything is trained.

Seen: 935 instructions and SmolLM2-135M-Instruct with LoRA, 40 steps of 4: validation perplexity 3.72 before and 2.48
after, 2.81 on the test rows, in 3.6 minutes of one CPU thread. docs/log.md: "What a recipe reaches, and how long it
takes".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import chat
from hftrain.tasks.chat import ChatRecipeConfig


def main(config: ChatRecipeConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import add_adapters, causal_language_model, fit, mean_loss, publish, start
    from hftrain.data.packing import Packed, pack
    from hftrain.models.neftune import add_noise
    from hftrain.text.causal import causal_collator
    from hftrain.train.evaluation import loss_and_interval
    from hftrain.train.trials import chunk_loss, separate_documents

    accelerator = start(config)
    with accelerator.local_main_process_first():  # reads and tokenizes; the others find the tokens in the cache
        template = chat.load_template(config)
        rows = chat.load_chats(config, seed=config.seed)
        examples = {split: chat.tokenize(rows[split], template, config) for split in rows}
    model = chat.load_chat_model(config, template)
    questions = chat.questions(rows["test"], config.num_samples)
    before = chat.answer(accelerator, model, template, questions, config)  # to compare with the answers after training

    train = examples["train"]
    if config.packing:
        separate_documents(model, int(train.lengths.max()), config.attn_implementation)
        train = Packed(train, pack(train.lengths, config.max_length))
    model = add_adapters(model, config, "CAUSAL_LM", new_tokens=template.new_ids)
    chunked = config.chunked_loss and chunk_loss(model)  # the same loss without keeping all logits, if the model can
    add_noise(model, config.neftune_noise_alpha)
    collate = causal_collator(template.tokenizer, model, room=config.max_length if config.torch_compile else 1)

    plain = causal_language_model(chunked=chunked)  # without label smoothing

    def evaluate(model: Any) -> dict[str, float]:
        return chat.readings(
            mean_loss(accelerator, model, examples["validation"], config.eval_batch_size, collate=collate, loss=plain)
        )

    model, results = fit(
        accelerator,
        model,
        train,
        config,
        collate=collate,
        loss=causal_language_model(config.label_smoothing_factor, chunked),
        evaluate=evaluate,
        processor=template.tokenizer,
        held_out=examples,
    )
    samples = chat.samples(questions, before=before, after=chat.answer(accelerator, model, template, questions, config))
    tested = loss_and_interval(
        accelerator, model, examples["test"], config.eval_batch_size, collate=collate, loss=plain
    )
    report = chat.summarize(config, rows, examples, tested, samples, template.tokenizer)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, ChatRecipeConfig)
