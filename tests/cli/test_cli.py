"""The console command as a user types it; `run` with real processes, `predict` with a real (tiny, random) model."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import psutil
import pytest

from hftrain import cli
from hftrain.config import parse
from tests import ROOT

RECIPE = '''"""Counts to three.

    accelerate launch count.py
"""
raise RuntimeError("listing a recipe must not run it")
'''


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A checkout with two recipes, and the command standing in a folder beside it."""
    folder = tmp_path / "checkout" / "recipes"
    (folder / "configs").mkdir(parents=True)
    (folder / "count.py").write_text(RECIPE)
    (folder / "tell.py").write_text("x = 1\n")
    (folder / "configs" / "count-far.yaml").write_text(
        "# recipes/count.py --config recipes/configs/count-far.yaml\nto: 9\n"
    )
    (folder / "configs" / "tell-loud.yaml").write_text("")
    monkeypatch.setattr(cli.recipes, "PACKAGE", tmp_path / "checkout" / "hftrain")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return folder


def test_what_is_quick_imports_nothing_heavy():
    code = "import sys; from hftrain.cli import main; main(['recipes']); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "rich", "accelerate"} & set(modules)


def test_the_bare_command_lists_the_commands(capsys):
    assert cli.main([]) == 2
    output = capsys.readouterr().err
    assert all(name in output for name in ("predict", "inspect", "run"))


def test_recipes_are_listed_with_their_first_line_and_not_run(recipes, capsys):
    assert cli.main(["recipes"]) == 0
    assert capsys.readouterr().out == "count  Counts to three.\ntell\n"


def test_copy_takes_the_configs_that_mention_the_recipe(recipes, capsys):
    assert cli.main(["copy", "count"]) == 0
    assert capsys.readouterr().out.split() == ["count.py", "configs/count-far.yaml"]
    assert Path("count.py").read_text() == RECIPE and not Path("configs/tell-loud.yaml").exists()
    assert cli.main(["copy", "count", "sub/folder"]) == 0
    assert Path("sub/folder/configs/count-far.yaml").is_file()


def test_copy_overwrites_nothing_and_leaves_nothing_half_done(recipes, capsys):
    Path("configs").mkdir()
    Path("configs/count-far.yaml").write_text("mine")
    assert cli.main(["copy", "count"]) == 2
    assert "configs/count-far.yaml exists already and differs" in capsys.readouterr().err
    assert Path("configs/count-far.yaml").read_text() == "mine" and not Path("count.py").exists()


def test_an_unknown_recipe_is_answered_with_the_known_ones(recipes, capsys):
    assert cli.main(["run", "cuont"]) == 2
    assert (
        capsys.readouterr().err
        == "hftrain: no recipe 'cuont': choose from count, tell, or give the path of a recipe (x.py)\n"
    )
    assert cli.main(["run", "nowhere/x.py"]) == 2
    assert capsys.readouterr().err == "hftrain: the recipe file nowhere/x.py does not exist\n"


def test_errors_are_one_line_and_a_traceback_if_asked_for(tmp_path, capsys, monkeypatch):
    assert cli.main(["verify", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hftrain: no checkpoint in ") and error.count("\n") == 1
    monkeypatch.setenv("HFTRAIN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no checkpoint in"):
        cli.main(["verify", str(tmp_path)])


# ---- run: what a recipe sees, and what happens when it is told to stop ----

TELLS = """
import json, os, sys
names = ("WORLD_SIZE", "OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION")
print(json.dumps([sys.argv[1:], {name: os.environ.get(name) for name in names}]))
sys.exit(7)
"""

# Notes each signal in a file of its own rank, has a child as a data loader has, and stops with 75 half a second later.
TRAINS = """
import os, signal, subprocess, sys, time
from pathlib import Path

folder, rank = Path(sys.argv[1]), os.environ.get("RANK", "0")
received = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, frame: received.append(signal.Signals(number).name))
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
(folder / f"starting-{rank}").write_text(f"{os.getpid()} {worker.pid}")
(folder / f"starting-{rank}").rename(folder / f"ready-{rank}")
while not received:
    time.sleep(0.01)
time.sleep(0.5)
(folder / f"stopped-{rank}").write_text(" ".join([*received, "worker died" if worker.poll() else "worker lives"]))
worker.kill()
while len(list(folder.glob("stopped-*"))) < int(os.environ.get("WORLD_SIZE", "1")):  # else torchrun ends the slower one
    time.sleep(0.01)
sys.exit(75)
"""


def command(*arguments):
    return [sys.executable, "-m", "hftrain.cli", *map(str, arguments)]


def start_training(folder, *launcher_options, processes):
    (folder / "recipe.py").write_text(TRAINS)
    process = subprocess.Popen(
        command("run", folder / "recipe.py", *launcher_options, "--", folder), start_new_session=True, text=True,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(folder.glob("ready-*"))) < processes:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)
    return process


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_run_forwards_arguments_and_the_exit_code_without_a_warning(tmp_path):
    (tmp_path / "tells.py").write_text(TELLS)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["HF_HOME"] = str(tmp_path / "no accelerate configuration here")
    done = subprocess.run(
        command("run", tmp_path / "tells.py", "--help", "--a", "b c"), capture_output=True, text=True, env=environment
    )
    cores = len(psutil.Process().cpu_affinity())
    assert json.loads(done.stdout) == [
        ["--help", "--a", "b c"],
        {"WORLD_SIZE": None, "OMP_NUM_THREADS": str(cores), "ACCELERATE_MIXED_PRECISION": "no"},
    ]
    assert (done.returncode, done.stderr) == (7, "")
    # a launch file leaves each of its processes more than one core too
    launch_file = tmp_path / "launch.yaml"
    launch_file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_machines: 1\nnum_processes: 1\nuse_cpu: true\n"
    )
    words = command("run", tmp_path / "tells.py", "--config_file", launch_file, "--")
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout)[1]["OMP_NUM_THREADS"] == str(cores), done.stderr


@pytest.mark.parametrize(
    ("name", "launcher_options", "processes"),
    [
        pytest.param("SIGTERM", (), 1, marks=pytest.mark.slow),
        ("SIGUSR1", ("--num_processes", "2"), 2),
        pytest.param("SIGTERM", ("--num_processes", "2"), 2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_reaches_each_training_process_once_and_no_worker(tmp_path, name, launcher_options, processes):
    process = start_training(tmp_path, *launcher_options, processes=processes)
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    assert process.returncode == 75
    stops = sorted(path.read_text() for path in tmp_path.glob("stopped-*"))
    assert stops == [f"{name} worker lives"] * processes


def test_ctrl_c_of_a_terminal_arrives_once(tmp_path):
    process = start_training(tmp_path, processes=1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole foreground group
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert (tmp_path / "stopped-0").read_text() == "SIGINT worker lives"


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_killed_command_leaves_no_orphan_that_trains_on(tmp_path):
    process = start_training(tmp_path, processes=1)
    training = int((tmp_path / "ready-0").read_text().split()[0])
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: (tmp_path / "stopped-0").exists())
    assert (tmp_path / "stopped-0").read_text().split()[0] == "SIGTERM"
    wait_until(lambda: not psutil.pid_exists(training) or psutil.Process(training).status() == psutil.STATUS_ZOMBIE)


# ---- verify ----


def test_verify_lists_checkpoints_and_fails_for_a_damaged_one(tmp_path, capsys):
    import torch
    from accelerate import Accelerator

    from hftrain.distributed import Piece
    from hftrain.train import checkpoint

    for step in (5, 10):
        checkpoint.save(
            Accelerator(),
            tmp_path,
            step,
            pieces=[Piece.whole("model.w", torch.arange(1000.0))],
            state={"samples_seen": 8 * step},
            contract={"seed": 1},
            export=lambda folder: (folder / "config.json").write_text("{}"),
        )
    assert cli.main(["verify", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [[line[i] for i in (0, 1, 2, 5)] for line in lines[1:]] == [
        ["checkpoint-5", "5", "40", "good"],
        ["checkpoint-10", "10", "80", "good"],
    ]
    with (tmp_path / "checkpoint-5" / "training-00001.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    assert cli.main(["verify", str(tmp_path)]) == 1
    damaged, good = capsys.readouterr().out.splitlines()[1:]
    assert "training-00001.safetensors" in damaged and good.endswith("good")


# ---- predict ----


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A random BART whose output depends on its input, and a tokenizer of ten words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *"abcdefghij"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=12
    )
    torch.manual_seed(0)
    sizes = {"d_model": 16, "max_position_embeddings": 32, "init_std": 1.0}
    sizes |= {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 0}
    model = BartForConditionalGeneration(BartConfig(vocab_size=len(words), forced_eos_token_id=None, **ids, **sizes))
    model.generation_config.update(max_new_tokens=6)
    folder = tmp_path_factory.mktemp("translator")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model.eval(), tokenizer


TEXTS = ["a b c", "d", "", "e f g h i j", "b b", "  ", "j i h g"]


def one_by_one(model, tokenizer, texts, **search):
    """The oracle: no batches, no padding."""
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True).input_ids
        found.append(
            tokenizer.decode(model.generate(ids, **search)[0], skip_special_tokens=True) if text.strip() else ""
        )
    assert len(set(found)) > 3, "a model that always says the same proves nothing"
    return found


def test_predictions_come_in_order_and_do_not_depend_on_the_batch(translator, tmp_path, capsys):
    folder, model, tokenizer = translator
    expected = one_by_one(model, tokenizer, TEXTS, num_beams=3)
    (tmp_path / "texts.txt").write_text("".join(text + "\n" for text in TEXTS))
    for batch_size in ("1", "3", "32"):
        arguments = [
            "predict",
            str(folder),
            "--file",
            str(tmp_path / "texts.txt"),
            "--num_beams",
            "3",
            "--device",
            "cpu",
        ]
        assert cli.main([*arguments, "--batch_size", batch_size]) == 0
        assert capsys.readouterr().out.split("\n")[:-1] == expected
    arguments = ["predict", str(folder), "c", "d", "--num_beams", "3", "--device", "cpu", "--source_prefix", "a b "]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.split("\n")[0] == expected[0]


def test_json_lines_keep_their_keys(translator, tmp_path):
    folder, model, tokenizer = translator
    expected = one_by_one(model, tokenizer, TEXTS)
    rows = [{"id": i, "en": text} for i, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = ["--file", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert cli.main(["predict", str(folder), *files, "--column", "en", "--device", "cpu"]) == 0
    predicted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert predicted == [{**row, "prediction": text} for row, text in zip(rows, expected, strict=True)]


def test_an_adapter_is_loaded_onto_its_base(translator, tmp_path, capsys):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSeq2SeqLM, GenerationConfig

    folder, model, tokenizer = translator
    torch.manual_seed(1)
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=8)
    adapted = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder), config).eval()
    adapted.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        ids = tokenizer("a b c", return_tensors="pt").input_ids
        expected = tokenizer.decode(adapted.generate(input_ids=ids)[0], skip_special_tokens=True)
    assert expected != one_by_one(model, tokenizer, TEXTS)[0]
    assert cli.main(["predict", str(tmp_path), "a b c", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected + "\n"
    GenerationConfig.from_pretrained(folder, max_new_tokens=1).save_pretrained(
        tmp_path
    )  # beside the adapter: it counts
    assert cli.main(["predict", str(tmp_path), "a b c", "--device", "cpu"]) == 0
    shorter = capsys.readouterr().out.split()
    assert shorter == expected.split()[: len(shorter)] and len(shorter) < len(expected.split())


def test_texts_that_are_too_long_are_counted(translator, capsys):
    folder, _, _ = translator
    assert cli.main(["predict", str(folder), "a " * 11, "b " * 12, "--device", "cpu"]) == 0
    assert (
        "1 of 2 texts are longer than the 12 tokens that the model reads and were truncated" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (b'{"en": "a"}\n{"en": 3}\n', "en", "rows.jsonl, line 2: no text in 'en'"),
        (b'{"en": "a"}\n', None, "line 1: set --column to one of en"),
        (b'{"en": "a"}\nno\n', "en", "rows.jsonl, line 2: not valid JSON"),
        (b"[1]\n", "en", "rows.jsonl, line 1: not an object with columns but int: 1"),
        (b'{"en": "a", "prediction": "b"}\n', "en", 'already has a "prediction"'),
        (b'{"en": "\xff"}\n', "en", "rows.jsonl, line 1: invalid UTF-8: byte 0xff at byte 9"),
    ],
)
def test_bad_rows_are_named(translator, tmp_path, capsys, content, column, message):
    (tmp_path / "rows.jsonl").write_bytes(content)
    arguments = ["predict", str(translator[0]), "--file", str(tmp_path / "rows.jsonl")]
    assert cli.main(arguments + (["--column", column] if column else [])) == 2
    assert message in capsys.readouterr().err


def test_predict_says_what_is_missing(tmp_path, capsys):
    from transformers import BertConfig, GPT2Config

    assert cli.main(["predict", str(tmp_path)]) == 2
    assert "give a text, hftrain predict OUT" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path), "--file", str(tmp_path / "rows.csv")]) == 2
    assert f"no file {tmp_path / 'rows.csv'}" in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path), "a"]) == 2
    assert f"no model in {tmp_path}" in capsys.readouterr().err
    GPT2Config(architectures=["GPT2LMHeadModel"]).save_pretrained(tmp_path)
    assert cli.main(["predict", str(tmp_path), "a"]) == 2
    assert "contains a GPT2LMHeadModel, which hftrain predict does not support" in capsys.readouterr().err
    BertConfig(architectures=["BertForTokenClassification"], num_labels=1).save_pretrained(tmp_path)
    assert cli.main(["predict", str(tmp_path), "a"]) == 2
    assert "contains a BertForTokenClassification with one number for each token" in capsys.readouterr().err


@pytest.mark.parametrize("config", sorted((ROOT / "recipes" / "configs").iterdir()), ids=lambda path: path.stem)
def test_each_configuration_is_one_of_its_recipe(config):
    """The recipe that its name begins with: `hftrain copy` goes by that."""
    name, dash, _ = config.name.partition("-")
    recipe = importlib.import_module(f"recipes.{name}")
    assert dash and parse(typing.get_type_hints(recipe.main)["config"], ["--config", str(config), "--train_file", "x"])
