"""What is said of models and scores holds: positions that are there, the side of padding, words that BLEU counts,
scores that are numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sacrebleu.metrics import BLEU

from hftrain.metrics import load_metrics
from hftrain.models.fit import check_fit, count_positions
from hftrain.predict import predict
from hftrain.tasks import answering, classification, tagging, translation
from hftrain.tasks.answering import Found
from hftrain.tasks.classification.examples import collate, padding_side
from hftrain.tasks.tagging import Tagged
from hftrain.text import train_tokenizer

pytestmark = pytest.mark.unit

SIZE = {"vocab_size": 320, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
BART = {"vocab_size": 320, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8}
BART |= {"decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
POSITIONS: dict[str, tuple[dict[str, Any], int | None]] = {
    "Bert": (SIZE, 20),
    "Roberta": (SIZE | {"pad_token_id": 1}, 18),
    "XLMRoberta": (SIZE | {"pad_token_id": 1}, 18),
    "Camembert": (SIZE | {"pad_token_id": 1}, 18),
    "MPNet": (SIZE | {"pad_token_id": 1}, 18),
    "Longformer": (SIZE | {"pad_token_id": 1, "attention_window": 4}, 18),
    "Bart": (BART, 20),
    "M2M100": (BART, 20),
    "Pegasus": (BART, 20),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_are_those_that_are_there(name):
    settings, right = POSITIONS[name]
    config = getattr(transformers, f"{name}Config")(**settings, max_position_embeddings=20)
    model = getattr(transformers, f"{name}Model")(config).eval()
    most, _ = count_positions(model)
    assert most == right
    decoder = {"decoder_input_ids": torch.full((1, 2), 5)} if config.is_encoder_decoder else {}
    model(input_ids=torch.full((1, most), 5), **decoder)
    if name != "M2M100":  # which makes more
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, most + 1), 5), **decoder)
    tokenizer = train_tokenizer(["a b"], 300)
    check_fit(model, tokenizer, max_seq_length=most)
    with pytest.raises(ValueError, match=rf"max_seq_length={most + 1}, .* positions for only {most} tokens"):
        check_fit(model, tokenizer, max_seq_length=most + 1)


def xlnet() -> Any:
    torch.manual_seed(0)
    config = transformers.XLNetConfig(vocab_size=320, d_model=8, n_layer=1, n_head=2, d_inner=8, num_labels=3)
    config.pad_token_id = 0
    return transformers.XLNetForSequenceClassification(config).eval()


def test_xlnet_has_no_end_and_judges_by_its_last_token(tmp_path):
    model = xlnet()
    check_fit(model, train_tokenizer(["a b"], 300), max_seq_length=10_000)
    examples = [{"input_ids": list(range(9, 9 + length)), "labels": 0} for length in (9, 4, 6)]
    settings: dict[str, Any] = {"pad_token_id": 0, "problem": "single_label_classification", "classes": 3}
    settings |= {"typed": False, "side": padding_side(model.config)}
    with torch.no_grad():
        batch = collate(examples, **settings)
        batch.pop("labels")
        together = model(**batch).logits
        alone = torch.cat([model(input_ids=torch.tensor([example["input_ids"]])).logits for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert padding_side(transformers.BertConfig()) == "right" == padding_side(transformers.GPT2Config())
    tokenizer = train_tokenizer(["one two three four"] * 3, 320)
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    texts = ["one", "one two three four", "two four"]
    said = [each["probabilities"] for each in predict(tmp_path, texts)]
    for text, each in zip(texts, said, strict=True):
        assert predict(tmp_path, [text])[0]["probabilities"] == pytest.approx(each, abs=1e-5)


# ---- BLEU

CHINESE = "今天天气很好我们去公园"


@pytest.mark.parametrize(
    ("language", "reference", "tokenizer"),
    [
        ("zh", CHINESE, "zh"),
        ("zh_CN", CHINESE, "zh"),
        ("zho_Hans", CHINESE, "zh"),
        ("yue_Hant", CHINESE, "zh"),
        ("de", CHINESE, "zh"),  # the default of the setting, where nobody has set it
        (None, "今日は天気がいいですね", "ja"),
        ("jpn_Jpan", "日本", "ja"),
        ("ja_XX", "日本", "ja"),
        ("ko_KR", "안녕 세계", "ko"),
        (None, "안녕 세계", "ko"),
        ("tha_Thai", "วันนี้", "char"),
        (None, "วันนี้อากาศดี", "char"),
        ("km", "សួស្តី", "char"),
        ("de_DE", "Guten Tag, Herr 王!", "13a"),
        ("ru", "Добрый день", "13a"),
        ("cs", "42 %", "13a"),
    ],
)
def test_bleu_counts_the_words_of_the_language(language, reference, tokenizer):
    chosen = translation.bleu_tokenizer(language, [reference])
    if tokenizer in ("ja", "ko"):
        try:
            BLEU(tokenize=f"{tokenizer}-mecab")
            tokenizer = f"{tokenizer}-mecab"
        except RuntimeError:  # MeCab is not installed
            tokenizer = "char"
    assert chosen == tokenizer


def test_bleu_of_chinese_is_that_of_sacrebleu():
    hypotheses, references = ["今天天气很好我们去学校", "那座红色的房子在东京"], [CHINESE, "那座红色的房子在北京"]
    found = translation.score(hypotheses, references, "zh")
    right = BLEU(trg_lang="zh")
    assert found["sacrebleu"] == right.corpus_score(hypotheses, [references]).score > 50
    assert found["sacrebleu_signature"] == str(right.get_signature()) and "tok:zh" in found["sacrebleu_signature"]
    assert "tok:13a" in translation.score(["good day"], ["good day"], "en")["sacrebleu_signature"]


# ---- scores that are no numbers


@pytest.mark.parametrize("metric", ["accuracy", "f1", "roc_auc", "expected_calibration_error"])
def test_scores_that_are_nan_are_refused(metric):
    metrics = load_metrics([metric], "single_label_classification", labels=["no", "yes"])
    scores = np.full((4, 2), np.nan)
    with pytest.raises(ValueError, match=r"8 of 8 scores are not finite .* the model has diverged"):
        metrics.add(scores.argmax(1), [0, 1, 0, 1], scores)


def test_tags_and_answers_of_nan_are_refused():
    with pytest.raises(ValueError, match="1 of 1 losses are not finite"):
        tagging.score([Tagged([0], [np.nan], np.nan, 1)], [["O"]], ["O"], ["accuracy"])
    rows: Any = {"answers": [["a"]], "context": ["a"]}
    with pytest.raises(ValueError, match="1 of 1 losses are not finite"):
        answering.score([Found([], np.nan, np.nan)], rows, 1, ["squad"])


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_a_model_of_nan_predicts_nothing(tmp_path: Path, task):
    model = getattr(transformers, f"BertFor{task}")(transformers.BertConfig(**SIZE))
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    train_tokenizer(["one two three"] * 3, 320).save_pretrained(tmp_path)
    pairs = ["two"] if task == "QuestionAnswering" else None
    with pytest.raises(ValueError, match="gives NaN scores: its training has diverged"):
        predict(tmp_path, ["one"], pairs=pairs)


def test_a_message_names_the_column_as_the_user_does(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"premise": "ab"[n % 2], "label": "xy"[n % 2]}) + "\n" for n in range(18)))
    config = classification.ClassificationConfig(
        train_file=str(path), text_column="premise", validation_split=1, test_split=1, output_dir=str(tmp_path / "out")
    )
    with pytest.raises(ValueError, match="rows with the same 'premise' stay together"):
        classification.load_labelled(config, seed=0)
