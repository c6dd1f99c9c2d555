"""Pretrain: a causal language model from scratch, or any one further, on text; scored by perplexity and bits per byte.

    accelerate launch recipes/pretrain.py --config recipes/configs/pretrain-10m.yaml --train_file 'books/*.txt'
    accelerate launch recipes/pretrain.py --model gpt2 --model_config.hidden_size 768 --train_file tokens/
    accelerate launch recipes/pretrain.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --train_file notes.jsonl

Text is what `hftrain prepare` has tokenized, or rows that are tokenized first: json, jsonl, csv, tsv, parquet, arrow,
txt (also .zst, also data/*.jsonl), a folder, or a data set on the Hub. Documents are packed and do not see one another.

Seen: 2.461 bits per byte (perplexity 74.6 of 2,000 tokens) on tinyshakespeare with pretrain-10m.yaml, a Llama of
10.2M parameters, in 19 minutes of one CPU thread. docs/log.md: "nanoGPT's settings, and a Llama of ten million
parameters, on tinyshakespeare".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import pretraining
from hftrain.tasks.pretraining import PretrainConfig


def main(config: PretrainConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import add_adapters, causal_language_model, fit, mean_loss, publish, start
    from hftrain.text.causal import causal_collator
    from hftrain.train.evaluation import loss_and_interval
    from hftrain.train.trials import check_causal, chunk_loss, separate_documents

    accelerator = start(config)
    with accelerator.main_process_first(), accelerator.local_main_process_first():  # tokenizes; the others find it done
        tokenizer, files = pretraining.load_tokens(config)
    examples = pretraining.make_blocks(config, files, config.packing)
    model = pretraining.load_causal_model(config, tokenizer)
    check_causal(model)
    if config.packing == "best_fit":  # several documents in a row, which must not see one another
        separate_documents(model, int(examples["train"].examples.lengths.max()), config.attn_implementation)
    model = add_adapters(model, config, "CAUSAL_LM")
    chunked = config.chunked_loss and chunk_loss(model)  # the same loss without keeping all logits, if the model can
    collate = causal_collator(tokenizer, model, room=config.max_length if config.torch_compile else 1)

    plain = causal_language_model(chunked=chunked)  # without label smoothing
    held_out = examples["validation"]

    def evaluate(model: Any) -> dict[str, float]:
        loss = mean_loss(accelerator, model, held_out, config.eval_batch_size, collate=collate, loss=plain)
        return pretraining.readings(loss, held_out, files["validation"])

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=causal_language_model(config.label_smoothing_factor, chunked),
        evaluate=evaluate,
        processor=tokenizer,
        held_out=examples,
    )
    samples = pretraining.continuations(
        accelerator, model, tokenizer, files["validation"], config.sample_tokens, config.max_length
    )
    tested = loss_and_interval(accelerator, model, held_out, config.eval_batch_size, collate=collate, loss=plain)
    report = pretraining.summarize(config, files, examples, samples, tokenizer, tested)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, PretrainConfig)
