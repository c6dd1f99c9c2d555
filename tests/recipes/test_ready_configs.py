"""The ready configurations: each fits its model, and needs the memory that its header states.

Bytes are counted without allocating any. Weights, gradients and the optimizer's state follow from the model at its true
size on the meta device. For activations the recipe's own loss runs forward and backward over the longest micro-batch on
fake tensors, under a mode that adds up what is alive. Layers are alike, so that a model of two tells what all need.
Images and speech are counted as `hftrain plan` counts them.
"""

import importlib
import re
import typing
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig
from transformers.initialization import no_init_weights

import hftrain.labels
from hftrain import text
from hftrain.audio.features import STEADY
from hftrain.config import parse
from hftrain.losses import SummingHead, causal_language_model, sequence_to_sequence
from hftrain.models.adapters import add_adapters, check_targets
from hftrain.models.fit import count_positions
from hftrain.models.images import fix_batch_norm
from hftrain.models.load import DTYPES
from hftrain.tasks import answering, detection, segmentation, tagging
from hftrain.tasks.preference import collate_preferences, preference_loss
from hftrain.tasks.speaking.losses import loss_for, mask_padding
from hftrain.tasks.speech_recognition.losses import frames_of, recognition
from hftrain.text.causal import collate_causal
from hftrain.train.forecast.passes import count_pass
from hftrain.train.forecast.strategies import needs as plan_needs
from hftrain.train.forecast.strategies import weigh_model
from hftrain.train.trials import check_packing, chunk_loss
from hftrain.vision.sizes import refusal
from tests import ROOT
from tests.recipes.counted_memory import Alive, AsOnGpu, FourBits, Stack, fake_weights, size, stacks_of

FOLDER = ROOT / "recipes" / "configs"
GIB = 2**30
LAYERS = {"encoder_layers", "decoder_layers", "num_hidden_layers"}

# The models' configurations as their authors publish them, and their numbers of parameters.
LLAMA = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "num_key_value_heads": 8}
QWEN = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 40960}
GEMMA = {"head_dim": 256, "hidden_activation": "gelu_pytorch_tanh"}
DEBERTA = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "position_biased_input": False, "type_vocab_size": 0, "layer_norm_eps": 1e-7,
}  # fmt: skip
VISION = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 896, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", 8_030_261_248, {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 128256, "max_position_embeddings": 131072, **LLAMA}),
    "Qwen/Qwen3-0.6B": ("qwen3", 596_049_920, {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "tie_word_embeddings": True, **QWEN}),
    "Qwen/Qwen3-4B-Instruct-2507": ("qwen3", 4_022_468_096, {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": True, **QWEN, "max_position_embeddings": 262144}),
    "Qwen/Qwen3-8B": ("qwen3", 8_190_735_360, {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": False, **QWEN}),
    "google/gemma-3-1b-it": ("gemma3_text", 999_885_952, {
        "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
        "num_key_value_heads": 1, "vocab_size": 262144, "max_position_embeddings": 32768, "sliding_window": 512,
        **GEMMA}),
    "google/gemma-3-4b-it": ("gemma3", 4_300_079_472, {
        "vision_config": VISION, "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
            "num_key_value_heads": 4, "vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window": 1024,
            **GEMMA}}),
    "HuggingFaceTB/SmolLM3-3B-Base": ("smollm3", 3_075_098_624, {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 128256, "max_position_embeddings": 65536, "pad_token_id": 128004,
        "tie_word_embeddings": True}),
    "answerdotai/ModernBERT-base": ("modernbert", 149_655_232, {}),
    "microsoft/deberta-v3-base": ("deberta-v2", 184_000_000, {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "vocab_size": 128100, "max_position_embeddings": 512, **DEBERTA}),
    "FacebookAI/xlm-roberta-base": ("xlm-roberta", 278_043_648, {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}),
    "facebook/nllb-200-distilled-600M": ("m2m_100", 615_073_792, {
        "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
        "encoder_attention_heads": 16, "decoder_attention_heads": 16, "vocab_size": 256206, "pad_token_id": 1,
        "max_position_embeddings": 1024, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}),
    "PekingU/rtdetr_v2_r50vd": ("rt_detr_v2", 42_900_000, {"num_labels": 80}),
    "nvidia/mit-b0": ("segformer", 3_752_694, {"num_labels": 150}),
    "openai/whisper-large-v3": ("whisper", 1_543_490_560, {
        "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20,
        "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "vocab_size": 51866,
        "num_mel_bins": 128, "max_source_positions": 1500, "max_target_positions": 448}),
    "facebook/wav2vec2-large-lv60": ("wav2vec2", 315_471_520, {
        "num_attention_heads": 16, "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096,
        "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True, "vocab_size": 32, **STEADY}),
    "Roboflow/rf-detr-base": ("rf_detr", 32_100_000, {
        "backbone_config": {
            "model_type": "rf_detr_dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6,
            "image_size": 518, "patch_size": 14, "num_windows": 4,
            "out_features": ["stage2", "stage5", "stage8", "stage11"]},
        "projector_scale_factors": [1.0], "decoder_n_points": 2, "num_labels": 91}),
    "google/vit-base-patch16-224-in21k": ("vit", 85_800_194, {}),
    "Helsinki-NLP/opus-mt-en-de": ("marian", 74_410_496, {
        "d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048,
        "encoder_attention_heads": 8, "decoder_attention_heads": 8, "vocab_size": 58101, "pad_token_id": 58100,
        "max_position_embeddings": 512, "decoder_start_token_id": 58100, "activation_function": "swish"}),
}  # fmt: skip
CLASSES = {
    "chat": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "preference": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "classify": ("AutoModelForSequenceClassification", "SEQ_CLS"),
    "classify_images": ("AutoModelForImageClassification", None),
    "detect": ("AutoModelForObjectDetection", None),
    "segment": ("AutoModelForSemanticSegmentation", None),
    "transcribe": ("AutoModelForSpeechSeq2Seq", None),
    "speak": ("AutoModelForTextToSpectrogram", None),
    "tag": ("AutoModelForTokenClassification", "TOKEN_CLS"),
    "answer": ("AutoModelForQuestionAnswering", "QUESTION_ANS"),
    "translate": ("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
}
NEEDS = re.compile(
    "# Counted, not run: weights (.+), gradients (.+), optimizer (.+), activations (.+): (.+) GiB; "
    "for a GPU with (.+) GB"
)
PICTURES_AND_SOUNDS = ("classify_images", "detect", "segment", "speak", "transcribe")
READY = sorted(path.stem for path in FOLDER.glob("*.yaml") if "# Counted" in path.read_text())
QUICK = {  # one of each way to train and kind of model; the others are as slow, and alike
    "chat-llama3.1-8b-qlora", "chat-smollm3-3b-full", "classify-deberta-v3-base", "tag-xlm-r-base",
    "translate-marian-full", "segment-segformer-ade20k",
}  # fmt: skip


# ---- the model ----


def shape_of(config, layers=None):
    """The configuration of the model that `config` names, with its own number of layers or another."""
    if config.model_name_or_path is None:
        return AutoConfig.for_model(config.model, **config.model_config)
    kind, _, entries = MODELS[config.model_name_or_path]
    shape = AutoConfig.for_model(kind, **entries, use_cache=False)
    if layers:
        part = shape.get_text_config()
        for name in LAYERS & part.to_dict().keys():
            setattr(part, name, layers)
        for name in {"layer_types", "no_rope_layers"} & part.to_dict().keys():
            setattr(part, name, getattr(part, name)[:layers])
    return shape


def load(config, recipe, layers=None, plain=False):
    """The model as the recipe has it when training begins, or plain, as it was published; on the meta device."""
    auto_class, task = CLASSES[recipe]
    shape = shape_of(config, layers)
    if shape.model_type == "wav2vec2":
        auto_class = "AutoModelForCTC"
    with torch.device("meta"), no_init_weights():
        model = getattr(transformers, auto_class).from_config(shape, dtype=DTYPES[config.dtype])
        model.tie_weights()
        linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
        for name, module in linear.items() if config.load_in_4bit and not plain else ():
            if module is not model.get_output_embeddings():
                model.set_submodule(name, FourBits(module.out_features, module.in_features))
        return model if plain else add_adapters(model, config, task)


# ---- what a micro-batch needs ----


def longest_batch(config, recipe):
    """Rows of the longest micro-batch, and what makes a batch of so many rows of the longest examples."""
    if recipe == "translate":
        lengths = config.max_source_length + config.max_target_length
        rows = config.micro_batch_size or config.micro_batch_tokens // lengths
        pair = {"input_ids": [5] * config.max_source_length, "labels": [5] * config.max_target_length}
        return rows, lambda n: text.collate_pairs([pair] * n, pad_token_id=1, decoder_start_token_id=1)
    length = getattr(config, "max_length", None) or config.max_seq_length
    rows = config.micro_batch_size or config.micro_batch_tokens // length
    ids = np.full(length, 5)
    if recipe == "preference":
        row = {name: ids for name in ("first_input_ids", "second_input_ids", "first_labels", "second_labels")}
        row |= {"reference": [0.0, 0.0]}
        return rows, lambda n: collate_preferences([row] * n, pad_token_id=0)
    if recipe == "chat":
        row = {"input_ids": ids} | ({"position_ids": np.arange(length)} if config.packing else {})
        return rows, lambda n: collate_causal([row] * n, pad_token_id=0)
    return rows, lambda n: understanding_batch(recipe, n, length)


def picture_batch(recipe, config):
    """Pictures of the size that the model reads, and twenty objects in each of a detector's."""
    rows, side = config.micro_batch_size, config.image_size
    batch = {"pixel_values": torch.zeros(rows, 3, side, side)}
    if recipe == "classify_images":
        return batch | {"labels": torch.zeros(rows, dtype=torch.long)}
    if recipe == "segment":
        return batch | {"labels": torch.zeros(rows, side, side, dtype=torch.long), "sizes": torch.zeros(rows, 2)}
    batch |= {"boxes": torch.full((rows * 20, 4), 0.5), "class_labels": torch.zeros(rows * 20, dtype=torch.long)}
    return batch | {"objects": torch.full((rows,), 20)}


def sound_batch(recipe, config, model_config):
    """Recordings of the longest kind, and the most that the model writes of one or, for speech, 200 characters of ten
    seconds in frames of 256 samples."""
    if recipe == "speak":
        rows, tokens, frames = config.micro_batch_size, 200, 10 * config.sampling_rate // 256
        batch = {"input_ids": torch.ones(rows, tokens, dtype=torch.long), "speaker_ids": torch.zeros(rows)}
        batch |= {"mel": torch.zeros(rows, frames, model_config.num_mel_bins)}
        durations = torch.full((rows, tokens), frames // tokens)
        durations[:, 0] += frames - frames // tokens * tokens
        batch |= {"durations": durations, "attention_mask": torch.ones_like(durations)}
        return batch | {name: torch.zeros(rows, tokens) for name in ("pitch", "energy")}
    if model_config.is_encoder_decoder:
        rows, written = (
            config.micro_batch_size,
            torch.full((config.micro_batch_size, model_config.max_target_positions), 5),
        )
        sound = torch.zeros(rows, model_config.num_mel_bins, 2 * model_config.max_source_positions)
        return {"input_features": sound, "labels": written, "decoder_input_ids": written}
    rows, samples = int(config.micro_batch_seconds // config.max_seconds), int(16_000 * config.max_seconds)
    batch = {"input_values": torch.zeros(rows, samples), "attention_mask": torch.ones(rows, samples, dtype=torch.long)}
    return batch | {"labels": torch.full((rows, 400), 5), "lengths": torch.full((rows,), samples)}


def understanding_batch(recipe, rows, length):
    labels = {"classify": (), "tag": (length,), "answer": (2,)}[recipe]
    batch = {"input_ids": torch.full((rows, length), 5), "labels": torch.zeros(rows, *labels, dtype=torch.long)}
    batch["attention_mask"] = torch.ones(rows, length, dtype=torch.long)
    if recipe == "answer":
        batch |= {"context": torch.ones(rows, length), "null": torch.zeros(rows, dtype=torch.long)}
    return batch


def loss_of(config, recipe, model=None):
    if recipe == "chat":
        return causal_language_model(chunked=config.chunked_loss)
    if recipe == "preference":
        return preference_loss(None, config)
    if recipe == "translate":
        return sequence_to_sequence(config.label_smoothing_factor)
    if recipe == "detect":
        return detection.SetLoss(model.config).loss()
    if recipe == "segment":
        return segmentation.SegmentLoss(model).loss()
    if recipe == "transcribe":
        return recognition(model, config.label_smoothing_factor)
    if recipe == "speak":
        return loss_for(model).loss()
    if recipe in ("classify", "classify_images"):
        return hftrain.labels.classification("single_label_classification")
    return {"tag": tagging, "answer": answering}[recipe].loss()


def planned(recipe, config):
    """The parts of `needs` as `hftrain plan` counts them, with what a GPU keeps for dropout and norms."""
    model = load(config, recipe)
    if getattr(config, "fixed_batch_norm", None) is not False and recipe in ("detect", "segment"):
        fix_batch_norm(model)
    if recipe == "speak":
        mask_padding(model)
    heard = recipe in ("speak", "transcribe")
    batch = sound_batch(recipe, config, model.config) if heard else picture_batch(recipe, config)
    loss, saves = loss_of(config, recipe, model), config.activation_checkpointing
    with nullcontext() if saves else AsOnGpu():  # a layer is computed again without the mode, and must be as before
        one = count_pass(model, batch, loss, bf16=config.bf16, checkpointing=saves)
    need = plan_needs("one device", weigh_model(model), one, 1, bf16=config.bf16)
    return np.array([need.weights, need.gradients, need.optimizer, need.activations]) / GIB


def needs(recipe, config, evaluation=False, layers=2):
    """GiB of weights, gradients, the optimizer's state, and what the longest micro-batch needs beside them (or the
    longest batch of an evaluation)."""
    if recipe in PICTURES_AND_SOUNDS:
        return planned(recipe, config)
    shape = shape_of(config).get_text_config()
    lists = [getattr(shape, key) for key in ("encoder_layers", "num_hidden_layers") if hasattr(shape, key)]
    more = lists[0] - layers
    count, batch_of = longest_batch(config, recipe)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fake_weights(model := load(config, recipe, layers if more else None))
        if recipe in ("chat", "preference") and config.chunked_loss:
            model.get_output_embeddings().__class__ = SummingHead
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        stacks = stacks_of(model) if more else []
        weights = [*model.parameters(), *model.buffers()]
        repeated = [parameter for stack in stacks for parameter in stack[1].parameters()]
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        unreached = set(trained)
        for name, parameter in trained.items():
            parameter.grad = torch.empty_like(parameter)  # of the micro-batch before
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: unreached.discard(name))
        if config.bf16:
            model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
        model.train(not evaluation)
        batch = batch_of(config.eval_batch_size if evaluation else count)
        batch = {name: fake.from_tensor(values) for name, values in batch.items()}
        alive = Alive([*weights, *(p.grad for p in trained.values()), *batch.values()])
        for stack in stacks:
            Stack(stack, more, alive)
        with alive, AsOnGpu(), torch.set_grad_enabled(not evaluation):
            summed = loss_of(config, recipe).summed(model, batch)
            if not evaluation:
                summed.backward()
    if not evaluation:
        assert not unreached, f"these train, and nothing depends on them: {sorted(unreached)}"
    trained_bytes = size(trained.values()) + more * size(p for p in repeated if p.requires_grad)
    assert config.optim == "adamw_torch"  # two moments of what trains, in fp32 as that is
    return np.array([size(weights) + more * size(repeated), trained_bytes, 2 * trained_bytes, alive.peak]) / GIB


def read(name):
    """The recipe of a configuration, and what it sets."""
    recipe = name.partition("-")[0]
    kind = typing.get_type_hints(importlib.import_module(f"recipes.{recipe}").main)["config"]
    return recipe, parse(kind, ["--config", str(FOLDER / f"{name}.yaml"), "--train_file", "x.jsonl"])


# ---- the tests ----


def most_slow(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", most_slow(READY))
def test_the_memory_is_what_the_header_states(name):
    stated = NEEDS.search((FOLDER / f"{name}.yaml").read_text())
    *parts, total, card = map(float, stated.groups())
    found = needs(*read(name))
    assert parts == pytest.approx(found, rel=0.1, abs=0.05)
    assert total == pytest.approx(found.sum(), rel=0.1)
    assert found.sum() < 0.85 * card  # the rest is for the driver, kernels and fragments


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in READY if not name.startswith(PICTURES_AND_SOUNDS)])
def test_an_evaluation_fits_too(name):
    card = float(NEEDS.search((FOLDER / f"{name}.yaml").read_text())[6])
    weights, _, optimizer, evaluation = needs(*read(name), evaluation=True)
    assert weights + optimizer + evaluation < 0.85 * card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tag-xlm-r-base", "classify-modernbert-base", "chat-gemma3-1b-full"])
def test_two_layers_tell_what_all_of_them_need(name):
    recipe, config = read(name)
    shape = shape_of(config)
    assert needs(recipe, config, layers=shape.num_hidden_layers) == pytest.approx(needs(recipe, config), rel=0.1)


@pytest.mark.parametrize("name", READY)
def test_model_targets_and_positions_fit(name):
    recipe, config = read(name)
    model = load(config, recipe, plain=True)
    if config.model_name_or_path:
        published = MODELS[config.model_name_or_path][1]
        assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(published, rel=0.01)
    if config.use_peft:
        check_targets(model, config.lora_target_modules)
    if recipe == "transcribe" and config.micro_batch_seconds is not None:
        assert config.micro_batch_tokens == 10_000 and int(frames_of(model)(torch.tensor(16_000 * 25))) == 1249
    if recipe in ("detect", "segment", "speak", "transcribe"):  # counting their memory runs them at their size
        return
    if recipe == "classify_images":
        kind = getattr(transformers, CLASSES[recipe][0])
        assert refusal(model.config, config.image_size, kind) is None
        return
    most = model.config.get_text_config().max_position_embeddings
    longest = (getattr(config, key, 0) for key in ("max_length", "max_seq_length", "max_source_length"))
    assert max(longest) <= min(most, count_positions(model)[0] or most)


@pytest.mark.parametrize("name", most_slow(name for name in READY if name.startswith("chat-")))
def test_what_the_recipe_tries_at_the_start_succeeds(name):
    recipe, config = read(name)
    model = load(config, recipe, plain=True)
    assert chunk_loss(model) == config.chunked_loss
    if config.packing:
        check_packing(model, config.max_length)


def test_the_guide_lists_all():
    guide = (FOLDER.parents[1] / "docs" / "configurations.md").read_text()
    for name in READY:
        parts = NEEDS.search((FOLDER / f"{name}.yaml").read_text()).groups()
        assert re.search(rf"`{re.escape(name)}` \|.*\| {re.escape(parts[4])} \| {parts[5]} GB \|", guide), name
