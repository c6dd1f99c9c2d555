"""The built-in data set: right, the same each time, one target for a source, nothing in two splits."""

import re
from datetime import datetime

import pytest

from hftrain.data.rows import fingerprint, leaks
from hftrain.tasks.translation import cldr
from hftrain.tasks.translation.cldr import PLAIN_SPACES, generate

pytestmark = pytest.mark.unit

SIZES = {"train": 1_500, "validation": 100, "test": 100}


def small(seed=0):
    return generate(train=1_500, validation=100, test=100, seed=seed)


@pytest.fixture(scope="module")
def splits():
    return small()


def test_sizes_and_order(splits):
    assert {name: len(rows) for name, rows in splits.items()} == SIZES
    assert list(splits) == ["train", "validation", "test"]
    assert splits["train"].column_names == ["source", "target"]


def test_no_source_has_two_targets_or_stands_in_two_splits(splits):
    sources = [source for rows in splits.values() for source in rows["source"]]
    assert len(sources) == len(set(sources)) == 1_700
    for held_out in ("validation", "test"):
        assert leaks(splits["train"], splits[held_out])[:2] == (0, 0)


def test_what_is_ambiguous_is_left_out():
    rows = generate(train=4_000, validation=1, test=1)["train"]
    # "May 5, 2024" is "5. Mai 2024" (long) or "05.05.2024" (medium); in June the two forms differ in English too
    months = {source.split()[0] for source in rows["source"] if re.fullmatch(r"[A-Z][a-z]+ \d+, \d{4}", source)}
    assert {"June", "Jun", "July", "Jul"} < months and "May" not in months


MONTHS = "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split()  # noqa: SIM905
DAYS = "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag".split()  # noqa: SIM905


def test_against_german_written_here(splits):
    full = units = times = 0
    for row in splits["train"]:
        source, target = row.values()
        if found := re.fullmatch(r"(in )?(\d+) (day|week|hour|minute)s( ago)?", source):
            number, word = found[2], {"day": "Tage", "week": "Wochen", "hour": "Stunden", "minute": "Minuten"}[found[3]]
            dative = "n" if found[3] == "day" and (found[1] or found[4]) else ""
            before = "in " if found[1] else "vor " if found[4] else ""
            assert target == f"{before}{number} {word}{dative}"
            units += 1
        if re.fullmatch(r"[A-Z][a-z]+day, [A-Z][a-z]+ \d+, \d{4}", source):
            day = datetime.strptime(source, "%A, %B %d, %Y")
            assert target == f"{DAYS[day.weekday()]}, {day.day}. {MONTHS[day.month - 1]} {day.year}"
            full += 1
        if re.fullmatch(r"\d+:\d+ [AP]M", source):
            assert target == datetime.strptime(source, "%I:%M %p").strftime("%H:%M")
            times += 1
    assert min(full, units, times) > 30
    texts = "".join([*splits["train"]["source"], *splits["train"]["target"]])
    assert not {chr(space) for space in PLAIN_SPACES} & set(texts)


def test_the_same_each_time(splits):
    again, other = small(), small(seed=1)
    assert [fingerprint(rows) for rows in again.values()] == [fingerprint(rows) for rows in splits.values()]
    assert fingerprint(other["train"]) != fingerprint(splits["train"])


@pytest.mark.parametrize(("source", "target"), [("de", "en"), ("pt-BR", "zh_Hant"), ("ar", "ja"), ("en", "en_GB")])
def test_other_locales(source, target):
    rows = generate(source, target, train=200, validation=10, test=10)["train"]
    assert len(set(rows["source"])) == 200


def test_refuses():
    with pytest.raises(ValueError, match=r"Babel has no locale 'dee'; similar: .*\bde\b"):
        generate("en", "dee")
    with pytest.raises(ValueError, match="source and target locale are both 'de'"):
        generate("de", "de")


def test_rows_are_generated_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cldr, "cache", lambda: tmp_path)
    sizes = {"train": 20, "validation": 5, "test": 5}
    expected, first = generate("en", "de", **sizes), cldr.load("en", "de", **sizes)
    monkeypatch.setattr(cldr, "generate", None)
    for rows in (first, cldr.load("en", "de", **sizes)):
        assert [(name, part.data.to_dict()) for name, part in rows.items()] == [
            (name, part.data.to_dict()) for name, part in expected.items()
        ]
        assert [part.fingerprint for part in rows.values()] == [part.fingerprint for part in expected.values()]
