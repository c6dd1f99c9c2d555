"""The ready configurations of speech recognition fit their models, at true size on the meta device."""

import pytest
import torch
import transformers
from transformers.initialization import no_init_weights

from hftrain.config import parse
from hftrain.models.adapters import check_targets
from hftrain.tasks.speech_recognition import TranscribeConfig
from hftrain.tasks.speech_recognition.losses import frames_of
from tests import ROOT

pytestmark = pytest.mark.unit

HEADS = {"num_attention_heads": 16, "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
# the configuration as its authors publish it, and the number of parameters
MODELS = {
    "transcribe-whisper-large-v3-lora": (transformers.AutoModelForSpeechSeq2Seq, 1_543_490_560, "whisper", {
        "d_model": 1280, "encoder_layers": 32, "decoder_layers": 32, "encoder_attention_heads": 20,
        "decoder_attention_heads": 20, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120, "vocab_size": 51866,
        "num_mel_bins": 128, "max_source_positions": 1500, "max_target_positions": 448}),
    "transcribe-wav2vec2-librispeech100": (transformers.AutoModelForCTC, 315_471_520, "wav2vec2", {
        **HEADS, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True, "vocab_size": 32}),
}  # fmt: skip


def test_all_are_checked():
    folder = ROOT / "recipes" / "configs"
    assert {path.stem for path in folder.glob("transcribe-*.yaml")} == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_it_fits_its_model(name):
    file = ROOT / "recipes" / "configs" / f"{name}.yaml"
    config = parse(TranscribeConfig, ["--config", str(file), "--train_file", "x.jsonl"])
    auto_class, parameters, kind, entries = MODELS[name]
    with torch.device("meta"), no_init_weights():
        model = auto_class.from_config(transformers.AutoConfig.for_model(kind, **entries))
        model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(parameters, rel=0.01)
    if config.use_peft:
        check_targets(model, config.lora_target_modules)
    if config.micro_batch_seconds is not None:
        assert config.micro_batch_tokens == 10_000 and int(frames_of(model)(torch.tensor(16_000 * 25))) == 1249
