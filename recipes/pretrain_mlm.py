"""Pretrain an encoder by masked tokens (BERT), or an encoder-decoder by hidden spans (T5), from scratch or further.

    accelerate launch recipes/pretrain_mlm.py --model bert --train_file 'books/*.txt' --whole_word_mask true
    accelerate launch recipes/pretrain_mlm.py --model_name_or_path answerdotai/ModernBERT-base --train_file notes.jsonl
    accelerate launch recipes/pretrain_mlm.py --objective span_corruption --model t5 --train_file tokens/

Text as in pretrain.py. What is hidden in training is drawn anew each time and follows from seed, step and example; what
is hidden in the validation text is always the same.

Seen: a perplexity of 21.3 of the hidden words on Multi30k's captions with pretrain_mlm-cpu.yaml, in 8.6 minutes on
the clock of one CPU thread. docs/log.md: "A masked language model on captions".
"""

from typing import Any

from hftrain import run
from hftrain.tasks import pretraining
from hftrain.tasks.pretraining import PretrainMlmConfig


def main(config: PretrainMlmConfig) -> dict[str, Any]:
    # imported here, so that a mistake in the settings is reported before torch is loaded
    from hftrain import fit, mean_loss, publish, sequence_to_sequence, start
    from hftrain.data.noise import Noised
    from hftrain.train.evaluation import loss_and_interval
    from hftrain.train.trials import chunk_loss

    accelerator = start(config)
    with accelerator.main_process_first(), accelerator.local_main_process_first():  # tokenizes; the others find it done
        tokenizer, files = pretraining.load_tokens(config, pretraining.MARKS[config.objective])
    noise = pretraining.make_noise(config, tokenizer)  # what hides tokens or spans of an example
    blocks = pretraining.make_blocks(config, files, config.packing)
    examples = {split: pretraining.measured(noise, config.objective, blocks[split]) for split in blocks}
    noised = {split: Noised(examples[split], noise, config.seed) for split in examples}  # the same at each evaluation
    model = pretraining.load_denoiser(config, tokenizer)
    collate = pretraining.denoising_collator(config.objective, tokenizer, model)
    chunked = config.chunked_loss and chunk_loss(model)  # the same loss without keeping all logits, if the model can

    plain = sequence_to_sequence(chunked=chunked)  # without label smoothing
    held_out = noised["validation"]

    def evaluate(model: Any) -> dict[str, float]:
        loss = mean_loss(accelerator, model, held_out, config.eval_batch_size, collate=collate, loss=plain)
        return pretraining.denoising_readings(loss)

    model, results = fit(
        accelerator,
        model,
        examples["train"],
        config,
        collate=collate,
        loss=sequence_to_sequence(config.label_smoothing_factor, chunked=chunked),
        evaluate=evaluate,
        augment=noise,  # drawn anew for each step
        processor=tokenizer,
        held_out=examples,
    )
    tested = loss_and_interval(accelerator, model, held_out, config.eval_batch_size, collate=collate, loss=plain)
    report = pretraining.summarize_denoising(config, files, examples, noised, tokenizer, tested)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, PretrainMlmConfig)
