"""Classification as it is used: rows with labels of every kind, losses, noise, thresholds, a recipe and its folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import transformers

import hftrain.labels
from hftrain import text
from hftrain.labels.losses import losses
from hftrain.labels.scoring import best_threshold, tune_thresholds
from hftrain.metrics import load_metric
from hftrain.models.freezing import freeze
from hftrain.tasks import classification
from recipes import classify as recipe
from tests import tiny
from tests.old_folders import without_the_key

SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"
WORDS = {"animal": ["dog", "cat", "bird"], "colour": ["red", "blue", "green"], "food": ["bread", "rice", "soup"]}
FILLING = ["the", "a", "is", "my", "your", "and", "of", "on", "under", "big", "small", "old", "new", "very"]
SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


def make_rows(count: int, seed: int, several: bool = False) -> list[dict[str, Any]]:
    """Sentences of which a word tells the class, or each of up to three words a label."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        kinds = sorted(draw.choice(list(WORDS), size=draw.integers(0, 4) if several else 1, replace=False).tolist())
        words = draw.choice(FILLING, size=draw.integers(2, 12)).tolist()
        for kind in kinds:
            words.insert(draw.integers(len(words) + 1), str(draw.choice(WORDS[kind])))
        rows.append({"text": " ".join(words), "label": kinds if several else kinds[0]})
    return rows


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def build(kind: str, folder: Path, **settings: Any) -> str:
    """A small random model with its tokenizer, saved as the pretrained ones are."""
    words = FILLING + [word for kind_words in WORDS.values() for word in kind_words]
    if kind == "bert":
        size = SIZE | {"num_hidden_layers": 2, "max_position_embeddings": 256, "initializer_range": 0.5}
        shape = {"vocab_size": len(tiny.wordpiece(folder, words)), **size}
        tiny.model("BertForMaskedLM", **shape | settings).save_pretrained(folder)
    else:
        tokenizer: Any = text.train_tokenizer([" ".join(words)] * 3, 300)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.pad_token = None  # as Llama's
        shape = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, **SIZE}
        tiny.model("LlamaForCausalLM", **shape | settings).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def configured(tmp_path: Path, rows: list[Any] | None = None, **settings: Any) -> Any:
    """A run of a few steps on `rows`, else on made ones."""
    rows = rows or make_rows(90, 0, settings.get("problem_type") == SEVERAL)
    defaults: dict[str, Any] = {"train_file": write(tmp_path / "rows.jsonl", rows), "output_dir": str(tmp_path / "out")}
    defaults |= {"max_steps": 3, "eval_steps": 0, "save_steps": 0, "logging_steps": 1, "vocab_size": 300}
    defaults |= {"validation_split": 0.2, "test_split": 0.2}
    if "model_name_or_path" not in settings:
        defaults["model_config"] = SIZE
    return classification.ClassificationConfig(**defaults | settings)


def prepare(config: Any) -> tuple[Any, Any, list[str]]:
    """Examples of each split, tokenizer, names of the classes."""
    rows = classification.load_labelled(config, seed=config.seed)
    names, ids = hftrain.labels.number_classes(rows, config)
    tokenizer = classification.load_tokenizer(rows["train"], config)
    return (
        {name: classification.tokenize(each, tokenizer, ids, config) for name, each in rows.items()},
        tokenizer,
        names,
    )


# ---- examples


def test_examples_of_pairs_and_what_is_cut(tmp_path, caplog):
    (tmp_path / "bert").mkdir()
    folder = build("bert", tmp_path / "bert")
    firsts = [f"{a} {b} dog" for a in FILLING for b in FILLING][:40]
    rows = [{"a": a, "b": "my old " * (n % 4) + "cat", "label": n % 2} for n, a in enumerate(firsts)]
    config = configured(
        tmp_path, rows, text_column="a", text_pair_column="b", model_name_or_path=folder, max_seq_length=9
    )
    with caplog.at_level("WARNING"):
        examples, tokenizer, _ = prepare(config)
    assert sum(each.counts["truncated"] for each in examples.values()) == 20  # 3 + 3 special + 5 or 7
    for name, split in examples.items():
        assert f"{name}: {split.counts['truncated']} of {len(split)} texts" in caplog.text
    assert "are longer than max_seq_length = 9 and are truncated" in caplog.text
    for example in examples["train"]:
        assert example["length"] in (7, 9, 11, 13)
        assert len(example["input_ids"]) == len(example["token_type_ids"]) == min(9, example["length"])
        assert set(example["token_type_ids"]) == {0, 1}
    with pytest.raises(ValueError, match="max_seq_length=257, but the model has positions for only 256 tokens"):
        config.max_seq_length = 257
        classification.load_classifier(config, tokenizer, ["0", "1"])


def test_noise_is_of_the_seed_and_leaves_special_tokens(tmp_path):
    (tmp_path / "bert").mkdir()
    config = configured(tmp_path, model_name_or_path=build("bert", tmp_path / "bert"))
    tokenizer = classification.load_tokenizer([], config)
    encoded = tokenizer("the big dog is my old cat", "red soup and blue rice")
    example = {name: np.array(encoded[name]) for name in ("input_ids", "token_type_ids")}
    assert classification.augmentation(config, tokenizer) is None
    seen = set()
    for name in ("token_drop", "token_swap", "span_noise"):
        noise = configured(tmp_path, model_name_or_path=config.model_name_or_path, **{name: 0.4})
        augment = classification.augmentation(noise, tokenizer)
        for seed in range(5):
            told = []
            for _ in range(2):
                np.random.seed(seed)
                told.append(augment(example))
            ids, types = told[0]["input_ids"].tolist(), told[0]["token_type_ids"].tolist()
            assert ids == told[1]["input_ids"].tolist() and len(ids) == len(types)
            words = tokenizer.convert_ids_to_tokens(ids)
            assert words[0] == "[CLS]" and words[-1] == "[SEP]" and words.count("[SEP]") == 2
            assert types == sorted(types) and types.index(1) == words.index("[SEP]") + 1
            first, second = set(words[: types.index(1)]), set(words[types.index(1) :])
            assert first <= {"[CLS]", "[SEP]", "[MASK]", *["the", "big", "dog", "is", "my", "old", "cat"]}
            assert second <= {"[SEP]", "[MASK]", *["red", "soup", "and", "blue", "rice"]}
            assert ("[MASK]" in words) == (name == "span_noise")
            assert name == "token_drop" or name == "span_noise" or sorted(ids) == sorted(example["input_ids"].tolist())
            seen.add((name, tuple(ids)))
    assert len(seen) > 10  # it does change from seed to seed


def test_noise_is_of_step_and_example_whatever_the_cut_and_after_a_resume(tmp_path):
    (tmp_path / "bert").mkdir()
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = {"model_name_or_path": build("bert", tmp_path / "bert", **still), "learning_rate": 1e-3}
    settings |= {"token_drop": 0.2, "token_swap": 0.2, "span_noise": 0.2, "max_steps": 4, "warmup_steps": 0}
    saving, found = {"save_steps": 2, "save_total_limit": 9}, {}
    for name, more in {"whole": saving, "cut": {"micro_batch_size": 5}, "plain": {"token_drop": 0.0}}.items():
        found[name] = train(configured(tmp_path, output_dir=str(tmp_path / name), **settings | more))[0]
    assert found["whole"] == pytest.approx(found["cut"], rel=1e-5) and found["whole"][0] != found["plain"][0]
    shutil.rmtree(tmp_path / "whole" / "checkpoint-4")
    again = settings | saving | {"output_dir": str(tmp_path / "whole"), "resume_from_checkpoint": "auto"}
    assert train(configured(tmp_path, **again))[0] == found["whole"]


# ---- freezing


def test_parts_are_frozen_by_name(tmp_path):
    (tmp_path / "bert").mkdir()
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, num_hidden_layers=4))
    frozen = freeze(model, ["embeddings", "layer.0-2", "*.bias"])
    for name, parameter in model.named_parameters():
        held = ".embeddings." in name or any(f"layer.{n}." in name for n in range(3)) or name.endswith("bias")
        assert parameter.requires_grad is not held and (name in frozen) is held
    with pytest.raises(
        ValueError, match=r"freeze: 'embedings' matches no part of the model; did you mean 'embeddings'"
    ):
        freeze(model, ["embedings"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(model, ["*"])


# ---- evaluation


@pytest.mark.parametrize(("kind", "problem"), [("bert", SINGLE), ("llama", SINGLE), ("new", SEVERAL), ("bert", NUMBER)])
def test_scores_do_not_depend_on_the_batch(tmp_path, kind, problem):
    rows = make_rows(70, 1, problem == SEVERAL)
    if problem == NUMBER:
        rows = [{**row, "label": len(row["text"]) / 10} for row in rows]
    settings: dict[str, Any] = {"problem_type": problem, "dtype": "float32"}
    if kind != "new":
        (tmp_path / kind).mkdir()
        settings["model_name_or_path"] = build(kind, tmp_path / kind)
    if problem == SINGLE:
        settings["metrics"] = ["accuracy", "f1_macro", "roc_auc", "matthews_correlation", "expected_calibration_error"]
    config = configured(tmp_path, rows, **settings)
    examples, tokenizer, names = prepare(config)
    model = classification.load_classifier(config, tokenizer, names).eval()
    collate = classification.collator(tokenizer, model, config)
    right = hftrain.labels.references(examples["train"], problem, len(names))
    assert len(set(examples["train"].lengths.ravel().tolist())) > 5
    found = []
    for size in (1, 2, 7, 64):
        scores = hftrain.labels.score(
            accelerate.Accelerator(), model, examples["train"], size, collate=collate, problem=problem
        )
        found.append(hftrain.labels.measure(scores, right, config, names)[0])
    # Padding is masked, but a matrix product of another shape may add in another order: 1e-6 of numbers near 1.
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6, abs=1e-6)


def test_thresholds_have_the_best_f1():
    draw = np.random.default_rng(0)
    for _ in range(20):
        scores, right = draw.choice([0.1, 0.2, 0.4, 0.7, 0.9, 0.95], 30), draw.integers(0, 2, 30)

        def f1(limit, scores=scores, right=right):
            said = scores >= limit
            return 2 * (said & (right == 1)).sum() / (said.sum() + right.sum())

        best = best_threshold(scores, right)
        assert f1(best) == pytest.approx(max(map(f1, np.linspace(0, 1, 101)))) and best not in scores
    outputs, references = draw.random((40, 3)), draw.integers(0, 2, (40, 3))
    references[:, 2] = 0
    assert tune_thresholds(outputs, references, "half") == [0.5] * 3
    each = tune_thresholds(outputs, references, "per_label")
    assert each[2] == 0.5 and each[0] == best_threshold(outputs[:, 0], references[:, 0])
    assert len(set(tune_thresholds(outputs, references, "global"))) == 1


def test_thresholds_are_chosen_by_validation_rows_alone(tmp_path):
    asked = []

    def score(model, split):
        asked.append(split)
        return hftrain.labels.Scores(np.zeros(4), np.array([[0.9, 0.2], [0.8, 0.3], [0.4, 0.6], [0.1, 0.7]]))

    model = torch.nn.Linear(1, 1)
    model.config = transformers.BertConfig(**SIZE)
    config = configured(tmp_path, problem_type=SEVERAL, thresholds="per_label")
    right = np.array([[1, 0], [1, 0], [0, 0], [0, 1]])
    found = hftrain.labels.choose_thresholds(accelerate.Accelerator(), model, config, score, right)
    assert asked == ["validation"] and found == pytest.approx([0.6, 0.65])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hftrain"]["thresholds"] == found


@pytest.mark.parametrize(("rows", "how"), [((9, 9), "half"), ((19, 500), "global"), ((20, 20), "per_label")])
def test_few_validation_rows_do_not_tune_a_threshold_each(tmp_path, rows, how):
    references = np.zeros((600, 2), int)
    for label, count in enumerate(rows):
        references[:count, label] = 1
    outputs = np.random.default_rng(0).random((600, 2))
    model = torch.nn.Linear(1, 1)
    model.config = transformers.BertConfig(**SIZE)
    config = configured(tmp_path, problem_type=SEVERAL)
    scores = hftrain.labels.Scores(np.zeros(600), outputs)
    accelerator = accelerate.Accelerator()
    chosen = hftrain.labels.choose_thresholds(accelerator, model, config, lambda *_: scores, references)
    assert chosen == tune_thresholds(outputs, references, how)
    assert config.chosen["thresholds"].value == how and "validation rows" in config.chosen["thresholds"].reason


# ---- the recipe


def test_the_recipe_learns_by_the_weights_the_focus_and_the_parts_that_are_set(tmp_path):
    """Its first loss is that of all training rows, computed apart; what is frozen stays as it was."""
    (tmp_path / "bert").mkdir()
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = build("bert", tmp_path / "bert", **still)
    names = dict(enumerate(WORDS))
    before = transformers.AutoModelForSequenceClassification.from_pretrained(folder, id2label=names).eval()
    before.save_pretrained(folder)
    settings: dict[str, Any] = {"class_weights": {"food": 3}, "focal_gamma": 2.0, "freeze": ["embeddings", "layer.0"]}
    settings |= {"model_name_or_path": folder, "global_batch_size": 1000, "max_steps": 1, "learning_rate": 1e-2}
    config = configured(tmp_path, **settings)
    recipe.main(config)
    examples, tokenizer, _ = prepare(config)
    batch = classification.collator(tokenizer, before, config)(list(examples["train"]))
    labels = batch.pop("labels")
    weights = hftrain.labels.weights(examples["train"], list(WORDS), config)
    with torch.no_grad():
        wanted = losses(before(**batch).logits, labels, SINGLE, weights=weights, focal_gamma=2.0).mean()
    history = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    assert history[0]["loss"] == pytest.approx(float(wanted), rel=1e-5)
    after = transformers.AutoModelForSequenceClassification.from_pretrained(config.output_dir).state_dict()
    for name, tensor in before.state_dict().items():
        frozen = "embeddings" in name or "layer.0." in name
        assert torch.equal(after[name], tensor) == frozen or "key.bias" in name, name  # softmax has no use for a key's


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_new_model_learns_several_labels_and_thresholds(tmp_path):
    config = configured(
        tmp_path, make_rows(400, 3, several=True), problem_type=SEVERAL, max_steps=100, learning_rate=1e-2
    )  # fmt: skip
    results = recipe.main(config)
    assert results["test_f1_micro"] > 0.9
    out = Path(config.output_dir)
    saved = transformers.AutoConfig.from_pretrained(out)
    assert saved.id2label == {0: "animal", 1: "colour", 2: "food"} and saved.problem_type == SEVERAL
    rows = classification.load_labelled(config, config.seed)
    from hftrain.predict import predict

    told = predict(out, rows["test"]["text"], batch_size=5)
    names = list(saved.label2id)
    said = [[int(name in each["labels"]) for name in names] for each in told]
    right = [[int(name in label) for name in names] for label in rows["test"]["label"]]
    again = load_metric("f1", "multilabel").compute(predictions=said, references=right, average="micro")["f1"]
    assert again == pytest.approx(results["test_f1_micro"], abs=1e-9)  # with the thresholds of the folder
    tuned = {round(limit, 6) for limit in saved.hftrain["thresholds"]}
    assert len(saved.hftrain["thresholds"]) == 3 and tuned != {0.5}
    for each in told:
        pairs = zip(each["probabilities"].items(), saved.hftrain["thresholds"], strict=True)
        assert each["labels"] == [name for (name, p), limit in pairs if p >= limit]
    assert predict(without_the_key(out, tmp_path / "old"), rows["test"]["text"], batch_size=5) == told
    page = (out / "report.html").read_text()
    for words in ("Thresholds", "Worst examples", "By class", "Lengths", "Calibration"):
        assert words in page, words
    assert {"roc.png", "precision_recall.png", "calibration.png", "lengths.png"} <= {
        path.name for path in (out / "figures").iterdir()
    }


def test_the_loss_does_not_depend_on_the_cut(tmp_path):
    (tmp_path / "bert").mkdir()
    folder = build("bert", tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    found = []
    for size in (None, 5):
        settings = {"balance_classes": True, "label_smoothing_factor": 0.1, "micro_batch_size": size}
        config = configured(tmp_path, model_name_or_path=folder, output_dir=str(tmp_path / f"out{size}"), **settings)
        found.append(train(config)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def train(config: Any) -> tuple[list[float], Any]:
    """Losses and gradient norms of each step, and the model, without test and report."""
    from hftrain.train.loop import fit, start

    accelerator = start(config)
    examples, tokenizer, names = prepare(config)
    model = classification.load_classifier(config, tokenizer, names)
    loss = hftrain.labels.classification(
        config.problem_type,
        weights=hftrain.labels.weights(examples["train"], names, config),
        label_smoothing=config.label_smoothing_factor,
    )
    model, _ = fit(
        accelerator, model, examples["train"], config,
        collate=classification.collator(tokenizer, model, config), loss=loss,
        processor=tokenizer, augment=classification.augmentation(config, tokenizer),
    )  # fmt: skip
    rows = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows for key in ("loss", "grad_norm") if key in row], model
