"""Recipes are read by strangers: `main` is short, on lines of its own; what a docstring claims stands in the log.

The recipe that the README shows is short too, and trains.
"""

import ast
import json
import re
import runpy

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hftrain import RecipeConfig
from hftrain.text import train_tokenizer
from tests import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.py"))
LOG = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
STATEMENTS = 30


def statements(source: str) -> list[ast.stmt]:
    """Every statement of `main`, imports and those of the functions in it included."""
    (main,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    return [node for node in ast.walk(main) if isinstance(node, ast.stmt) and node is not main]


def packed_lines(source: str) -> list[int]:
    """Lines that hold more than one step: two statements, two values assigned at once, or one kept from formatting."""
    nodes = statements(source)
    lines = [node.lineno for node in nodes]
    several = {line for line in lines if lines.count(line) > 1}
    several |= {node.lineno for node in nodes if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)}
    several |= {number for number, line in enumerate(source.splitlines(), 1) if re.search(r"#\s*fmt:", line)}
    return sorted(several)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_main_is_short_and_a_step_has_a_line(path):
    source = path.read_text(encoding="utf-8")
    assert len(statements(source)) <= STATEMENTS
    assert packed_lines(source) == []


@pytest.mark.parametrize(
    ("body", "count", "lines"),
    [
        ("    a = 1\n    b = 2", 2, []),
        ("    def f():\n        return 1\n    return f", 3, []),
        ("    a = 1; b = 2", 2, [2]),
        ("    a, b = 1, 2", 1, [2]),
        ("    if a: b = 1", 2, [2]),
        ("    a = [\n        1, 2,\n    ]  # fmt: skip", 1, [4]),
    ],
)
def test_what_counts_as_a_statement_and_as_packed(body, count, lines):
    source = f"def main(config):\n{body}\n"
    assert len(statements(source)) == count
    assert packed_lines(source) == lines


def section(title: str) -> str:
    """The entries of docs/log.md with this title."""
    entries = re.split(r"^## \d{4}-\d\d-\d\d  ", LOG, flags=re.M)[1:]
    return "\n".join(entry for entry in entries if entry.splitlines()[0] == title)


def numbers(text: str) -> set[str]:
    return {number.rstrip(".,") for number in re.findall(r"(?<![\w-])\d[\d.,]*(?!-?\w)", text)}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_docstring_names_a_score_and_a_time_that_stand_in_the_log(path):
    docstring = " ".join(str(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))).split())
    seen = docstring.partition("Seen: ")[2]
    assert re.search(r"\d (seconds|minutes)\b", seen) and re.search(r"\bCPU\b", seen), "a time, and the hardware"
    titles = re.findall(r'"(.+?)"', seen.partition("docs/log.md: ")[2])
    logged = "".join(map(section, titles))
    assert titles and all(section(title) for title in titles)
    claimed = numbers(seen.partition("docs/log.md: ")[0])
    assert len(claimed) >= 2 and claimed <= numbers(logged), claimed - numbers(logged)


def test_the_recipe_on_the_first_screen_of_the_readme_trains(tmp_path, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    recipe = tmp_path / "my_recipe.py"
    recipe.write_text(blocks[0])
    rows = [f"a line of {number} words is no text" for number in range(60)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    tokenizer = train_tokenizer(rows, 300)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = RecipeConfig(
        train_file=str(tmp_path / "notes.jsonl"),
        model_name_or_path=str(tmp_path / "model"),
        output_dir=str(tmp_path / "out"),
        learning_rate=0.01,
        max_steps=20,
    )
    results = runpy.run_path(str(recipe))["main"](config)
    assert results["test_loss"] < 5  # a new model of 300 tokens begins at ln 300, which is 5.7
    assert (tmp_path / "out" / "report.html").is_file()
    assert len([line for line in blocks[0].splitlines() if line]) <= 34
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    (usage,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    exec(usage, {})
    assert "Once" in capsys.readouterr().out
