"""Schemes of tags: which one it is, and what breaks it."""

import pytest

from hftrain.tasks.tagging import find_scheme, scheme_fault

# ---- schemes


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-X I-X O B-Y"], "IOB2"),
        (["B-X O", "B-Y I-X"], "IOB2"),  # with a fault
        (["I-X I-X O", "I-Y B-Y O I-X"], "IOB1"),
        (["I-X O I-X"], "IOB1"),
        (["B-X E-X O S-Y"], "BIOES"),
        (["NOUN VERB"], "none"),
        (["O O"], "none"),
        (["B-X other"], "none"),
    ],
)
def test_schemes_are_found_out(sentences, scheme):
    assert find_scheme([each.split() for each in sentences]) == scheme


def test_bilou_is_told_apart():
    with pytest.raises(ValueError, match="the tags are BILOU: rename L- to E- and U- to S-"):
        find_scheme([["B-X", "L-X", "U-Y"]])


@pytest.mark.parametrize(
    ("tags", "scheme", "fault"),
    [
        ("O I-X", "IOB2", (1, "I-X after O, where an entity should begin with B-")),
        ("I-X", "IOB2", (0, "I-X at the beginning, where an entity should begin with B-")),
        ("B-X I-Y", "IOB2", (1, "I-Y after B-X, where an entity should begin with B-")),
        ("B-X E-X", "IOB2", (1, "E-X is not a tag of the scheme")),
        ("I-X B-Y", "IOB1", (1, "B-Y where no entity of its type ends before; begin with I-")),
        ("B-X O", "BIOES", (0, "B-X before O, where the entity should continue with I- or E-")),
        ("O B-X I-X", "BIOES", (2, "I-X before the end, where the entity should continue with I- or E-")),
        ("S-X E-X", "BIOES", (1, "E-X after S-X, where an entity should begin with B-")),
        ("B-X I-X E-X S-X O", "BIOES", None),
        ("B-X I-X B-X O B-Y", "IOB2", None),
        ("I-X B-X I-X O I-Y", "IOB1", None),
        ("O I-X", "any", None),
    ],
)
def test_a_tag_that_breaks_the_scheme_is_found(tags, scheme, fault):
    assert scheme_fault(tags.split(), scheme) == fault
