"""The benchmarks run: a few steps of each contestant. Nothing is asserted of their times."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT, tiny

pytestmark = pytest.mark.slow


def bench(name, *arguments):
    command = [sys.executable, f"bench/{name}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, timeout=290, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_overhead():
    table = bench("overhead", "--quick")
    assert all(f"| {name} | " in table for name in ("bare", "accelerate", "trainer", "hftrain"))
    assert "| a step / that of a bare loop | <= 1.15 | " in table


def test_padding():
    names = [f"{task}: {name}" for task in ("classify", "translate") for name in ("Trainer", "hftrain")]
    names += ["tag: hftrain", "answer: Trainer", "answer: hftrain", "mask: Trainer", "mask: hftrain"]
    table = bench("padding", "--quick", "--contestants", *names)
    assert all(f"| {name} | " in table for name in names)
    assert "| translate: hftrain / translate: Trainer | >= 2.8 | " in table


def test_cut():
    assert all(f"| {name} | " in bench("cut", "--quick") for name in ("at once", "chosen"))


def test_rounds_in_processes_of_their_own(tmp_path):
    arguments = ("--contestants", "bare", "--steps", "4", "--rounds", "2", "--json", str(tmp_path / "numbers.json"))
    bench("overhead", *arguments)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    keys = ["cpu_ms", "data", "loss", "padding", "peak_mb", "per_cpu_s", "training_mb", "wall_ms"]
    assert [sorted(row) for row in numbers["bare"]] == [keys] * 2
    assert all(row["cpu_ms"] > 0 for row in numbers["bare"])


def test_gpu_dry(tmp_path):
    cases = ("gpt2: not compiled", "gpt2: all logits", "packs: mask", "packs: blocks", "llama_8b: QLoRA", "minilm")
    cases += ("minilm: padding-free", "packs: liger", "pairs", "pairs: all logits", "gpt2: saved")
    table = bench("gpu", "--quick", "--json", str(tmp_path / "numbers.json"), "--cases", *cases)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert list(numbers) == list(cases) and "written for GPUs" in numbers.pop("packs: liger")["error"]
    assert all(len(row["losses"]) == 4 for row in numbers.values())
    assert table.count("(equal)") == 5 and "NOT EQUAL" not in table
    assert all(row["counted_gib"] > 0 for name, row in numbers.items() if name.startswith(("gpt2", "pairs", "packs")))
    assert "| llama_8b | QLoRA | " in table and "| llama_8b: QLoRA, tokens_per_s | >= 12500 | " in table


def test_packs():
    table = bench("packs", "--quick")
    assert table.count("| 64 |") == 2


def test_saves():
    assert all(f"| {way} | " in bench("saves", "--quick") for way in ("background", "foreground"))
    assert "| 70.6B | 64 | 847 | 13.2 | " in bench("saves", "--count")


def test_beams():
    kinds = [f"{name}, {kind}" for kind in ("narrow", "wide") for name in ("marian", "ours")]
    table = bench("beams", "--quick", "--contestants", *kinds)
    assert "| beam search / Marian's, wide | >= 1.5 | " in table


def test_language():
    table = bench(
        "language", "--quick", "--contestants", "causal: hftrain", "sft: TRL, packing", "sft: hftrain, packing"
    )
    assert "| sft: hftrain, packing / sft: TRL, packing | >= 1.4 | " in table
    assert "| causal: hftrain / causal: Trainer | >= 2 | not measured | |" in table


def test_dpo():
    table = bench("dpo", "--quick")
    assert "| dpo: hftrain / dpo: TRL | >= 1.3 | " in table and "not measured" not in table


def test_start():
    table = bench("start", "--quick")
    assert "| CPU seconds of `import hftrain` | <= 0.5 | " in table


def test_chunked_loss():
    assert all(name in bench("chunked_loss", "--quick") for name in ("full", "chunked"))


def test_order(shared_data):
    table = bench("order", "--quick", "--data", str(shared_data), "--tasks", "tag")
    assert "| tag | group_by_length | " in table


def test_few_rows(shared_data, tmp_path):
    tiny.bert_folder(tmp_path / "minilm", ["what", "is", "a", "the"])
    table = bench("few_rows", "--quick", "--models", str(tmp_path), "--data", str(shared_data), "--cases", "sst2")
    assert "| sst2 | 50 | " in table


def test_defaults(tmp_path):
    row = {"case": "trec", "rows": 200, "seed": 1, "score": 0.5, "seconds": 1.0, "steps": 9}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert "| trec | 200 | default | 9 | 0.5 | 1 | 1 |" in bench(
        "defaults", "--table", "--results", str(tmp_path / "rows.jsonl")
    )


def test_prepare(tmp_path):
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": f"what is a {n}"}) for n in range(50)))
    tiny.wordpiece(tmp_path / "words", ["what", "is", "a"]).save_pretrained(tmp_path / "words")
    printed = bench(
        "prepare", str(tmp_path / "texts.jsonl"), "--tokenizer", str(tmp_path / "words"), "--max_length", "16"
    )
    assert printed.startswith("50 documents")


def test_each_benchmark_has_a_test():
    tested = set(re.findall(r'bench\(\s*"(\w+)"', Path(__file__).read_text()))
    assert {path.stem for path in (ROOT / "bench").glob("*.py")} - tested == {"rounds"}


def test_speech():
    table = bench("speech", "--quick")
    assert all(f"| {name} | " in table for name in ("transformers", "hftrain, 30 s", "hftrain"))


def test_vision(shared_data):
    names = ("script", "hftrain")
    table = bench("vision", "--quick", "--data", str(shared_data), "--cases", "raccoon", "--arms", *names)
    assert all(f"| raccoon, map_50 | {name} | 24 | " in table for name in names)


def test_curves():
    table = bench("curves", "--quick")
    assert "| 1,000 | " in table and table.count("|---") == 4 + 3 + 3 + 6


def test_the_table_has_all_aims():
    table = bench("table", "--quick", "--benchmarks", "overhead")
    assert (
        "| a step / that of a bare loop | <= 1.15 | " in table
        and "| on a GPU: what `bench/gpu.py` prints |  | not measured | |" in table
    )
