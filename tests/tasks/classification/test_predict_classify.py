"""`hftrain predict` with classifiers: models and adapters say what the trained model said; files in, files out."""

import json
from pathlib import Path

import accelerate
import datasets
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

import hftrain.labels
from hftrain import cli
from hftrain.predict import predict
from hftrain.tasks import classification
from tests import ROOT
from tests.programs import launcher, run
from tests.tasks.classification.test_classify import (
    NUMBER,
    SEVERAL,
    build,
    configured,
    make_rows,
    prepare,
    recipe,
    train,
    write,
)

TEXTS = ["the big dog", "my old red", "soup", "under the very new and small bread of the cat"]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_adapter_brings_its_head_and_all_that_was_new(tmp_path, kind):
    (tmp_path / kind).mkdir()
    folder = build(kind, tmp_path / kind)
    config = configured(tmp_path, model_name_or_path=folder, use_peft=True, learning_rate=0.01)
    model = train(config)[1]
    out = Path(config.output_dir)
    assert not list(out.glob("model*.safetensors")) and (out / "config.json").is_file()
    with safe_open(out / "adapter_model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
    assert any("classifier" in name or "score" in name for name in names if "lora" not in name)
    assert any("pooler" in name for name in names if "lora" not in name) == (kind == "bert")  # it was not in the folder
    examples, tokenizer, names = prepare(config)
    scores = hftrain.labels.score(
        accelerate.Accelerator(), model.eval(), examples["test"], 32,
        collate=classification.collator(tokenizer, model, config), problem=config.problem_type,
    )  # fmt: skip
    rows = classification.load_labelled(config, config.seed)["test"]
    for told in (predict(out, rows["text"], batch_size=3), predict(out / "checkpoint-3", rows["text"])):
        found = np.array([[each["probabilities"][name] for name in names] for each in told])
        np.testing.assert_allclose(found, scores.outputs, atol=1e-5)
        assert [each["label"] for each in told] == [names[n] for n in scores.outputs.argmax(1)]


def test_folders_load_by_plain_transformers(tmp_path):
    from hftrain.tasks.classification import report

    (tmp_path / "bert").mkdir()
    folder = build("bert", tmp_path / "bert")
    for adapters in (False, True):
        config = configured(
            tmp_path, model_name_or_path=folder, use_peft=adapters, output_dir=str(tmp_path / f"out{adapters}")
        )
        train(config)
        code = report.usage(config, {"text": TEXTS[0]}).replace("print(", "told = (")
        scope: dict = {}
        exec(code, scope)
        (said,) = predict(config.output_dir, TEXTS[:1])
        (told,) = scope["told"]
        assert told["label"] == said["label"] and told["score"] == pytest.approx(said["probability"], abs=1e-5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Random classifiers of each kind."""
    found = {}
    for problem, labels in (("single", ["no", "yes"]), ("several", ["a", "b", "c"]), ("number", ["LABEL_0"])):
        folder = tmp_path_factory.mktemp(problem)
        build("bert", folder)
        kinds = {"single": "single_label_classification", "several": SEVERAL, "number": NUMBER}
        config = transformers.AutoConfig.from_pretrained(
            folder, id2label=dict(enumerate(labels)), label2id={x: i for i, x in enumerate(labels)}
        )
        config.problem_type = kinds[problem]
        if problem == "several":
            config.thresholds = [0.0, 1.0, 0.5]
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        found[problem] = str(folder)
    return found


def test_lines(saved, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("the dog\n\nred soup\n")
    assert cli.main(["predict", saved["single"], "--file", str(tmp_path / "in.txt")]) == 0
    told = capsys.readouterr()
    lines = told.out.split("\n")
    assert len(lines) == 4 and lines[1] == "" and "1 of 3 texts are empty" in told.err
    label, probability = lines[0].split("\t")
    assert label in ("no", "yes") and 0.5 <= float(probability) <= 1
    assert cli.main(["predict", saved["several"], "the dog"]) == 0
    labels = capsys.readouterr().out.rstrip("\n").split("\t")[::2]
    assert "a" in labels and "b" not in labels  # thresholds 0 and 1
    assert cli.main(["predict", saved["number"], "the dog"]) == 0
    assert capsys.readouterr().out == f"{predict(saved['number'], ['the dog'])[0]:.6g}\n"


def test_jsonl_with_pairs(saved, tmp_path, capsys):
    rows = [{"one": "the dog", "two": "red soup", "n": 1}, {"one": "my bread", "two": "the", "n": 2}]
    file = write(tmp_path / "in.jsonl", rows)
    arguments = ["predict", saved["single"], "--file", file, "--column", "one", "--pair_column", "two"]
    assert cli.main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    told = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "prediction"} for row in told] == rows
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved["single"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(saved["single"]).eval()
    for row in told:
        with torch.no_grad():
            right = model(**tokenizer(row["one"], row["two"], return_tensors="pt")).logits.softmax(-1)[0]
        found = row["prediction"]["probabilities"]
        assert [found["no"], found["yes"]] == pytest.approx(right.tolist(), abs=1e-6)
    assert cli.main([*arguments[:-1], "three"]) == 2
    assert "no text in 'three'; set --pair_column to one of one, two, n" in capsys.readouterr().err
    assert cli.main(["predict", saved["single"], "--file", file]) == 2
    assert "line 1: set --column to one of one, two, n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.parquet", "in.json", "IN.NDJSON"])
def test_rows_are_read_as_in_training(saved, tmp_path, capsys, name):
    rows = [{"one": "the big dog", "n": "1"}, {"one": "red, soup", "n": "2"}]
    expected = predict(saved["single"], [row["one"] for row in rows])
    frame, file = datasets.Dataset.from_list(rows), tmp_path / name
    if "csv" in name:
        frame.to_csv(file, index=False)
    elif name.endswith("tsv"):
        file.write_text("one\tn\n" + "".join("\t".join(row.values()) + "\n" for row in rows))
    elif name.endswith("parquet"):
        frame.to_parquet(file)
    else:
        file.write_text(json.dumps(rows) if name == "in.json" else "\n".join(map(json.dumps, rows)))
    assert cli.main(["predict", saved["single"], "--file", str(file), "--column", "one"]) == 0
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{k: row[k] for k in ("one", "n")} for row in written] == rows
    assert [row["prediction"]["label"] for row in written] == [prediction["label"] for prediction in expected]


def test_files_of_texts_and_rows_that_are_not_what_they_seem(saved, tmp_path, capsys):
    def fails(name, content, message, *options):
        (tmp_path / name).write_bytes(content)
        assert cli.main(["predict", saved["single"], "--file", str(tmp_path / name), *options]) == 2
        assert message in capsys.readouterr().err

    fails("a.txt", b'{"one": "a"}\n', "a.txt contains JSON but would be read as text: rename it to .jsonl")
    fails("a.dat", b"a\n", "the ending .dat is not known")
    fails("a.txt", b"a\nb\xfc\n", "a.txt, line 2: invalid UTF-8: byte 0xfc at byte 2 of the line. Set encoding to")
    fails("a.csv", b"one;n\na;1\n", "which contains semicolons: set delimiter to ';'", "--column", "one")
    fails("a.csv", b"one\na\n", "rows are written as JSON lines: use the ending .jsonl", "--column", "one",
          "--output", str(tmp_path / "out.csv"))  # fmt: skip
    (tmp_path / "a.csv").write_bytes("one;n\nschön;1\n".encode("latin-1"))
    options = ["--column", "one", "--delimiter", ";", "--encoding", "latin-1"]
    assert cli.main(["predict", saved["single"], "--file", str(tmp_path / "a.csv"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["one"] == "schön"
    (tmp_path / "a.txt").write_bytes(b"the dog\r\n\r\n")
    assert cli.main(["predict", saved["single"], "--file", str(tmp_path / "a.txt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_long_texts_are_cut_and_counted(saved, capsys):
    assert predict(saved["single"], ["dog " * 400, "dog"])[0]["label"] in ("no", "yes")
    assert (
        "1 of 2 texts are longer than the 256 tokens that the model reads and were truncated" in capsys.readouterr().err
    )


def test_texts_are_read_as_in_training(tmp_path, capsys):
    """Two where it learnt from two, and as much of them."""
    (tmp_path / "bert").mkdir()
    folder = build("bert", tmp_path / "bert")
    rows = [{**row, "second": "the big dog"} for row in make_rows(60, 0)]
    said = {}
    for name in ("alone", "pairs"):
        settings = {"text_pair_column": "second"} if name == "pairs" else {}
        settings |= {"max_seq_length": 6, "output_dir": str(tmp_path / name), "model_name_or_path": folder}
        config = configured(tmp_path, rows, **settings)
        train(config)
        pairs = ["soup"] * 2 if name == "pairs" else None
        said[name] = predict(tmp_path / name, ["the big dog is my old cat", "dog"], pairs=pairs)
        assert (
            "1 of 2 texts are longer than the 6 tokens that the model reads and were truncated"
            in capsys.readouterr().err
        )
    cut = predict(tmp_path / "alone", ["the big dog is"])[0]["probabilities"]
    assert said["alone"][0]["probabilities"] == pytest.approx(cut, abs=1e-6)
    with pytest.raises(ValueError, match="was trained on pairs of texts: give the second with --context"):
        predict(tmp_path / "pairs", ["dog"])
    with pytest.raises(ValueError, match="was trained on single texts: remove pairs"):
        predict(tmp_path / "alone", ["dog"], pairs=["cat"])


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True])
def test_two_processes_train_and_score_as_one(tmp_path, adapters):
    """An odd number of rows everywhere: the last step, and the last batch of the scores, are filled up."""
    (tmp_path / "bert").mkdir()
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"train": 61, "validation": 23, "test": 37}
    files = {f"{name}_file": write(tmp_path / f"{name}.jsonl", make_rows(size, size)) for name, size in sizes.items()}
    settings = files | {"model_name_or_path": build("bert", tmp_path / "bert", **still), "use_peft": adapters}
    settings |= {"max_steps": 4, "eval_steps": 0, "save_steps": 0, "eval_batch_size": 4, "balance_classes": True}
    settings |= {"metrics": ["accuracy", "f1_macro", "roc_auc", "matthews_correlation"], "learning_rate": 1e-3}
    one = recipe.main(classification.ClassificationConfig(**settings, output_dir=str(tmp_path / "one")))
    (tmp_path / "two.yaml").write_text(json.dumps({**settings, "output_dir": str(tmp_path / "two")}))
    run(*launcher(), ROOT / "recipes" / "classify.py", "--config", tmp_path / "two.yaml", CUDA_VISIBLE_DEVICES="")
    two = json.loads((tmp_path / "two" / "all_results.json").read_text())
    keys = [key for key in one if key.startswith(("eval_", "test_"))]
    assert len(keys) == 10
    assert {key: two[key] for key in keys} == pytest.approx({key: one[key] for key in keys}, abs=1e-6)
