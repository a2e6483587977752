"""CIDEr-D against the numbers of the published implementation, pycocoevalcap 1.2, on the same words."""

from __future__ import annotations

import pytest

from benchmarks.cider import bootstrap_interval, cider_d

REFERENCES = {
    "dog": ["a dog runs on the beach", "a brown dog running along a sandy beach"],
    "cats": ["two cats sit on a red sofa", "two cats are sitting on a couch", "a pair of cats on a sofa"],
    "bike": ["a man rides a bike down the street", "a person riding a bicycle on a street"],
    "cup": ["a cup of coffee on a table", "a white cup of coffee on a wooden table"],
}
CAPTIONS = {
    "dog": "a dog running on the beach",
    "cats": "two cats sitting on a red couch",
    "bike": "a man riding a bicycle down the street",
    "cup": "a dog on a table table table",
}
PUBLISHED = {"dog": 2.93107117, "cats": 2.38904653, "bike": 2.92888899, "cup": 0.85846057}


def test_scores_are_the_published_implementations() -> None:
    assert cider_d(CAPTIONS, REFERENCES) == pytest.approx(PUBLISHED)


def test_the_reference_itself_scores_ten_and_punctuation_counts_for_nothing() -> None:
    references = {name: ones[:1] for name, ones in REFERENCES.items()}
    captions = {name: f"{one[0].capitalize()}." for name, one in references.items()}
    assert cider_d(captions, references) == pytest.approx(dict.fromkeys(captions, 10))


def test_the_interval_holds_the_mean_and_narrows_with_more_pictures() -> None:
    few, many = (bootstrap_interval([-1.0, 0.0, 1.0] * times) for times in (3, 100))
    assert few[0] < many[0] < 0 < many[1] < few[1]
