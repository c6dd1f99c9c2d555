"""Examples and rows know themselves: what is known of them is theirs, and nothing is pasted on anybody's object."""

import ast

import datasets
import numpy as np
import pytest
import torch

from hftrain.data.examples import Examples, fingerprint_of
from hftrain.data.noise import Noised
from hftrain.data.packing import Packed, pack
from hftrain.data.rows import BadRow, Leaks, Places, Rows
from tests import ROOT

pytestmark = pytest.mark.unit

KNOWN = {"bad", "leaks", "places", "classes", "split", "truncated", "counts", "refused", "lengths", "fingerprint"}


def documents(kind: str) -> Examples:
    rows = [{"input_ids": [number] * (number + 1)} for number in range(5)]
    items = datasets.Dataset.from_list(rows) if kind == "dataset" else rows
    return Examples(items, [len(row["input_ids"]) for row in rows], counts={"truncated": 2})


@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_examples_are_read_one_by_one_or_several_at_once(kind):
    examples = documents(kind)
    assert len(examples) == 5 and examples.lengths.tolist() == [[1], [2], [3], [4], [5]]
    assert examples[-1] == examples[4] == {"input_ids": [4] * 5}
    assert examples[1:3] == examples.__getitems__([1, 2]) == list(examples)[1:3]
    assert list(examples.column("input_ids")) == [row["input_ids"] for row in examples]
    assert examples.counts["truncated"] == 2 and examples.counts["refused"] == 0
    with pytest.raises(IndexError):
        examples[5]


def test_one_read_serves_several_examples():
    class Counted(list):
        reads = 0

        def __getitems__(self, indices):
            self.reads += 1
            return [self[index] for index in indices]

    items = Counted(range(10))
    examples = Examples.of(items)
    assert examples.__getitems__([7, 2, 2]) == [7, 2, 2] and list(examples) == list(range(10)) and items.reads == 2


def test_what_is_known_goes_along_with_what_is_made_of_it():
    rows = Rows(datasets.Dataset.from_list([{"text": "a"}]), [BadRow("file", "line 2", "null")])
    examples = documents("list").replaced(rows=rows)
    packed = Packed(examples, pack(examples.lengths, 6))
    assert packed.counts == examples.counts and packed.rows is rows and packed.lengths.sum() == 15
    longer = examples.replaced(lengths=examples.lengths + 1)
    assert longer.fingerprint == examples.fingerprint and longer[2] == examples[2]
    assert Noised(longer, lambda example: example, seed=1).lengths.tolist() == longer.lengths.tolist()
    assert examples.lengths.sum() == 15, "the others stay as they are"


def test_the_fingerprint_follows_the_examples_or_is_their_own():
    dataset = datasets.Dataset.from_list([{"n": 1}])
    assert Examples.of(dataset).fingerprint == dataset._fingerprint
    assert Examples([1, 2], [1, 1]).fingerprint != Examples([1, 3], [1, 1]).fingerprint
    assert Examples([1, 2], [1, 1]).fingerprint != Examples([1, 2], [1, 2]).fingerprint
    assert Examples([1, 2], [1, 1], fingerprint="own").fingerprint == "own"


def test_a_wrong_number_of_lengths_is_named():
    with pytest.raises(ValueError, match="3 examples, but the lengths of 2"):
        Examples([1, 2, 3], [1, 1])


def test_rows_are_chosen_with_their_places():
    data = datasets.Dataset.from_list([{"text": text} for text in "abc"])
    bad = [BadRow("file", "line 4", "null")]
    places = Places([("file", "line")], np.zeros(3, int), np.array([1, 2, 3]))
    rows = Rows(data, bad, places, Leaks(1, 1, []), "test")
    chosen = rows.select([2, 0])
    assert list(chosen) == [{"text": "c"}, {"text": "a"}] and chosen["text"][:] == ["c", "a"] and chosen.bad is bad
    assert str(chosen.places.bad(0, "odd")) == "file, line 3: odd"
    assert chosen.leaks is None, "what leaks was counted of all rows"
    assert Rows.of(rows) is rows and Rows.of(data).data is data and Rows.of(data).split == ""


def pasted(source: str) -> list[str]:
    """Attributes of the names in `KNOWN` that are set on anything but `self`, by their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = "" if ast.unparse(node.value) == "self" else node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            name = ast.unparse(node.args[1]).strip("'")
        else:
            continue
        if name.lstrip("_") in KNOWN:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_is_pasted_on_a_foreign_object():
    modules = [*(ROOT / "hftrain").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]
    found = {str(path.relative_to(ROOT)): lines for path in modules if (lines := pasted(path.read_text()))}
    assert found == {}, "make it a field of Rows or Examples"
    assert pasted("rows.bad = []\nself.bad = 1\nsetattr(rows, 'leaks', 2)\nrows._fingerprint, x = 1, 2") == [
        "line 1: rows.bad", "line 3: setattr(rows, 'leaks', 2)", "line 4: rows._fingerprint",
    ]  # fmt: skip


def test_long_arrays_have_fingerprints_of_all_their_numbers():
    """`repr` shows only the ends of an array of more than a thousand numbers."""
    values = np.zeros(5000)
    other = values.copy()
    other[2500] = 1
    first, same, second = (fingerprint_of([{"x": x}]) for x in (values, values.copy(), other))
    assert first == same != second
    assert fingerprint_of([torch.from_numpy(values)]) != fingerprint_of([torch.from_numpy(other)])
