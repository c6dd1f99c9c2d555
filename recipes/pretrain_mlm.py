"""Pretrain an encoder by masked tokens (BERT), or an encoder-decoder by hidden spans (T5), from scratch or further.

    accelerate launch recipes/pretrain_mlm.py --model bert --train_file 'books/*.txt' --whole_word_mask true
    accelerate launch recipes/pretrain_mlm.py --model_name_or_path answerdotai/ModernBERT-base --train_file notes.jsonl
    accelerate launch recipes/pretrain_mlm.py --objective span_corruption --model t5 --train_file tokens/

Text as in pretrain.py. What is hidden in training is drawn anew each time and follows from seed, step and example; what
is hidden in the validation text is always the same.
"""

from math import exp
from typing import Any

from hftrain import run
from hftrain.tasks.pretraining import PretrainMlmConfig


def main(config: PretrainMlmConfig) -> dict[str, Any]:
    from hftrain import text
    from hftrain.data.noise import Noised
    from hftrain.losses import sequence_to_sequence
    from hftrain.models import load, new
    from hftrain.models.fit import check_fit
    from hftrain.report import publish
    from hftrain.tasks import pretraining
    from hftrain.tasks.pretraining import denoising
    from hftrain.train import trials
    from hftrain.train.evaluation import mean_loss
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    with accelerator.main_process_first(), accelerator.local_main_process_first():  # tokenizes; the others find it done
        tokenizer, files = pretraining.load_tokens(config, denoising.MARKS[config.objective])
    noise = denoising.make_noise(config, tokenizer)
    blocks = pretraining.make_blocks(config, files, config.packing)
    examples = {name: denoising.measured(noise, config.objective, split) for name, split in blocks.items()}

    def shape() -> Any:
        form = {"num_decoder_layers": 0} if config.objective == "masked_tokens" else {}
        return new.new_shape(config.model, config.model_config, text.vocabulary(tokenizer), config.max_length, form)

    auto_class = denoising.AUTO[config.objective]
    model = load.load_model(config, auto_class, new=shape)
    check_fit(model, max_length=config.max_length)
    collate = denoising.denoising_collator(config.objective, tokenizer, model)
    model = load.add_adapters(model, config, None if config.objective == "masked_tokens" else "SEQ_2_SEQ_LM")
    chunked = config.chunked_loss and trials.chunk_loss(model)

    noised = {name: Noised(split, noise, config.seed) for name, split in examples.items()}

    def evaluate(model: Any) -> dict[str, float]:
        validation, plain = noised["validation"], sequence_to_sequence(chunked=chunked)
        loss = mean_loss(accelerator, model, validation, config.eval_batch_size, collate=collate, loss=plain)
        return {"loss": loss, "perplexity": exp(min(loss, 700))}

    model, results = fit(
        accelerator, model, examples["train"], config, processor=tokenizer,
        augment=noise, collate=collate, evaluate=evaluate, held_out=examples,
        loss=sequence_to_sequence(config.label_smoothing_factor, chunked=chunked),
        flops=pretraining.step_flops(model, examples["train"]),
    )  # fmt: skip
    report = pretraining.summarize_denoising(config, files, examples, noised, tokenizer)
    return publish(accelerator, config, results, report)


if __name__ == "__main__":
    run(main, PretrainMlmConfig)
