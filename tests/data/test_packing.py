"""Packing: no document is cut, lost or doubled; bins are those of the textbook; documents stay apart."""

import time

import numpy as np
import pytest

from hftrain.data.packing import Packed, pack

pytestmark = pytest.mark.unit


def textbook(lengths, max_length):
    """Tokens of each pack of best-fit-decreasing, one document at a time."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            best = min(fitting)
            rooms.remove(best)
            rooms.append(best - length)
        else:
            rooms.append(max_length - length)
    return sorted(max_length - room for room in rooms)


@pytest.mark.parametrize("seed", range(20))
def test_packs_are_those_of_best_fit_decreasing(seed):
    draw = np.random.default_rng(seed)
    max_length = int(draw.integers(5, 200))
    longest = int(draw.integers(1, max_length + 1))
    lengths = draw.integers(1, longest + 1, size=draw.integers(1, 400))
    packs = pack(lengths, max_length)
    assert sorted(np.concatenate(list(packs)).tolist()) == list(range(len(lengths)))
    tokens = [int(lengths[members].sum()) for members in packs]
    assert packs.lengths[:, 0].tolist() == tokens
    assert sorted(tokens) == textbook(lengths.tolist(), max_length)
    assert packs.padding == pytest.approx(1 - sum(tokens) / (len(tokens) * max_length))


def test_packing_a_million_documents_takes_seconds():
    draw = np.random.default_rng(0)
    lengths = np.minimum(draw.lognormal(5, 1.2, size=1_000_000).astype(int) + 1, 2048)
    began = time.process_time()
    packs = pack(lengths, 2048)
    assert time.process_time() - began < 5
    assert packs.padding < 0.001


@pytest.mark.parametrize(
    ("lengths", "said"), [([3, 9, 4, 10], r"row 1 has 9 tokens.*like 2 rows"), ([3, 0], "row 1 has 0")]
)
def test_what_cannot_be_packed_is_named(lengths, said):
    with pytest.raises(ValueError, match=said):
        pack(lengths, 8)


def test_nothing_packs_to_nothing():
    assert len(pack([], 8)) == 0


def test_documents_are_joined_and_kept_apart():
    examples = [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5], "labels": [-100, 5]}, {"input_ids": [6, 7, 8, 9]}]
    packed = Packed(examples, pack([3, 2, 4], 6))
    assert [members.tolist() for members in packed.packs] == [[2, 1], [0]]
    first, second = packed
    assert first["input_ids"].tolist() == [6, 7, 8, 9, 4, 5]
    assert first["labels"].tolist() == [-100, 7, 8, 9, -100, 5]
    assert first["position_ids"].tolist() == [0, 1, 2, 3, 0, 1]
    assert second["labels"].tolist() == [-100, 2, 3]
    assert packed.padding == pytest.approx(1 - 9 / 12)
    assert [row["input_ids"].tolist() for row in packed.__getitems__([1, 0])] == [[1, 2, 3], [6, 7, 8, 9, 4, 5]]
    assert packed[-1]["input_ids"].tolist() == [1, 2, 3]
    with pytest.raises(IndexError):
        packed[2]


def test_the_fingerprint_tells_documents_and_packs_apart():
    def fingerprint(documents, max_length):
        examples = [{"input_ids": ids} for ids in documents]
        return Packed(examples, pack([len(ids) for ids in documents], max_length)).fingerprint

    one = fingerprint([[1, 2], [3], [4]], 3)
    assert one == fingerprint([[1, 2], [3], [4]], 3)
    assert len({one, fingerprint([[1, 2], [3], [5]], 3), fingerprint([[1, 2], [3], [4]], 4)}) == 3


def test_it_packs_rows_of_datasets():
    from datasets import Dataset

    rows = Dataset.from_dict({"input_ids": [[1, 2], [3, 4, 5], [6]], "labels": [[1, 2], [-100, 4, 5], [6]]})
    packed = Packed(rows, pack([2, 3, 1], 4))
    assert packed[0]["input_ids"].tolist() == [3, 4, 5, 6]
    assert packed[0]["labels"].tolist() == [-100, 4, 5, -100]
