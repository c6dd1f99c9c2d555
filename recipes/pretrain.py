"""Pretrain: a causal language model from scratch, or any one further, on text; scored by perplexity and bits per byte.

    accelerate launch recipes/pretrain.py --config recipes/configs/pretrain-10m.yaml --train_file 'books/*.txt'
    accelerate launch recipes/pretrain.py --model gpt2 --model_config.hidden_size 768 --train_file tokens/
    accelerate launch recipes/pretrain.py --model_name_or_path HuggingFaceTB/SmolLM2-135M --train_file notes.jsonl

Text is what `hftrain prepare` has tokenized, or rows that are tokenized first: json, jsonl, csv, tsv, parquet, arrow,
txt (also .zst, also data/*.jsonl), a folder, or a data set on the Hub. Documents are packed and do not see one another.
"""

from typing import Any

from hftrain import run
from hftrain.tasks.pretraining import PretrainConfig


def main(config: PretrainConfig) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from hftrain import text
    from hftrain.losses import causal_language_model
    from hftrain.models import load, new
    from hftrain.models.fit import check_fit
    from hftrain.report import publish
    from hftrain.tasks import pretraining
    from hftrain.text import causal
    from hftrain.train import trials
    from hftrain.train.evaluation import mean_loss
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    with accelerator.main_process_first(), accelerator.local_main_process_first():  # tokenizes; the others find it done
        tokenizer, files = pretraining.load_tokens(config)
    examples = pretraining.make_blocks(config, files, config.packing)

    def shape() -> Any:
        vocabulary, form = text.vocabulary(tokenizer), {"num_encoder_layers": 0}
        return new.new_shape(config.model, config.model_config, vocabulary, config.max_length, form)

    model = load.load_model(config, AutoModelForCausalLM, new=shape)
    check_fit(model, max_length=config.max_length)
    trials.check_causal(model)
    if config.packing == "best_fit":
        trials.check_packing(model, int(examples["train"].examples.lengths.max()))
    model = load.add_adapters(model, config, "CAUSAL_LM")
    chunked = config.chunked_loss and trials.chunk_loss(model)
    collate = causal.causal_collator(tokenizer, model)

    def evaluate(model: Any) -> dict[str, float]:
        validation, loss = examples["validation"], causal_language_model(chunked=chunked)
        mean = mean_loss(accelerator, model, validation, config.eval_batch_size, collate=collate, loss=loss)
        return pretraining.readings(mean, validation, files["validation"])

    model, results = fit(
        accelerator, model, examples["train"], config, collate=collate,
        loss=causal_language_model(config.label_smoothing_factor, chunked=chunked),
        evaluate=evaluate, processor=tokenizer, held_out=examples,
        flops=pretraining.step_flops(model, examples["train"]),
    )  # fmt: skip
    samples = pretraining.continuations(
        accelerator, model, tokenizer, files["validation"], config.sample_tokens, config.max_length
    )
    report = pretraining.summarize(config, files, examples, samples, tokenizer)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, PretrainConfig)
