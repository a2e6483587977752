"""CIDEr-D: how near captions are to those that people wrote, n-gram by n-gram, rare ones counting more.

Source: Vedantam, Zitnick and Parikh, CIDEr: Consensus-based Image Description Evaluation (CVPR 2015), section 5.1, with
the constants of its authors' coco-caption. Words are split as there but without its Java tokenizer: lower case,
punctuation left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

LONGEST = 4  # words in an n-gram
SIGMA = 6.0  # of the penalty for a caption of another length

Vector = dict[tuple[str, ...], float]
Vectors = list[Vector]  # by the n-grams' length


def cider_d(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return each picture's score; 10 is the most. How rare an n-gram is, all pictures' references tell."""
    counted = {name: [_count(one) for one in references[name]] for name in captions}
    pictures_with = Counter(gram for sets in counted.values() for gram in set().union(*sets))
    log_pictures = math.log(len(captions))

    def weigh(counts: Counter[tuple[str, ...]]) -> Vectors:
        vectors: Vectors = [{} for _ in range(LONGEST)]
        for gram, count in counts.items():
            vectors[len(gram) - 1][gram] = count * (log_pictures - math.log(max(1, pictures_with[gram])))
        return vectors

    scores = {}
    for name, caption in captions.items():
        counts = _count(caption)
        vectors = weigh(counts)
        alike = [_similarity(vectors, weigh(one), _length(counts) - _length(one)) for one in counted[name]]
        scores[name] = 10 * sum(alike) / len(alike)
    return scores


def bootstrap_interval(differences: Sequence[float], *, rounds: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of the mean, by drawing the pictures anew with replacement."""
    values = np.asarray(differences)
    drawn = np.random.default_rng(seed).integers(0, len(values), (rounds, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _count(caption: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"[\w'-]+", caption.lower())
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))


def _length(counts: Counter[tuple[str, ...]]) -> int:
    return sum(count for gram, count in counts.items() if len(gram) == 2)  # as in coco-caption


def _similarity(mine: Vectors, theirs: Vectors, longer: int) -> float:
    total = 0.0
    for a, b in zip(mine, theirs, strict=True):
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        if norms:
            total += sum(min(weight, b.get(gram, 0)) * b.get(gram, 0) for gram, weight in a.items()) / norms
    return total / LONGEST * math.exp(-(longer**2) / (2 * SIGMA**2))
