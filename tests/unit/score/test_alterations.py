"""What speaks for a picture that was turned, inverted or cropped, in numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.score.alterations import Alterations

FEATURES = 3


def log_odds(*odds: float, words: tuple[str, ...]) -> Alterations:
    """Says the same of every picture: so many to one for each word."""
    offsets = np.log(np.array(odds)).astype(np.float32)
    return Alterations(words, np.zeros((len(odds), FEATURES), np.float32), offsets, 1.0)


PICTURE = np.zeros((1, FEATURES))


def test_the_evidence_is_what_is_left_for_no_alteration() -> None:
    asked = log_odds(2.0, 5.0, words=("rotated", "inverted"))
    # Of 1 + 2 + 5 parts one says that nothing was altered.
    assert asked.evidence(PICTURE) == pytest.approx([np.log(8)], rel=1e-6)


def test_features_move_the_evidence() -> None:
    weights = np.array([[0.0, 2.0, 0.0]], np.float32)
    asked = Alterations(("inverted",), weights, np.array([-1.0], np.float32), 1.0)
    pictures = np.array([[9.0, 0.5, 9.0], [0.0, 1.5, 0.0], [0.0, -500.0, 0.0], [0, 500.0, 0]])
    expected = [np.log(2), np.log1p(np.exp(2)), 0.0, 999.0]
    np.testing.assert_allclose(asked.evidence(pictures), expected, atol=1e-6)
    assert asked.looks(pictures)[1:] == ["inverted", "", "inverted"]


@pytest.mark.parametrize(
    ("odds", "word"),
    [
        # Two ways of one word count together.
        ((3.0, 3.0, 5.0), "rotated"),
        ((1.0, 1.0, 5.0), "inverted"),
        ((0.4, 0.4, 0.9), ""),
    ],
)
def test_the_most_probable_word_is_said(odds: tuple[float, ...], word: str) -> None:
    asked = log_odds(*odds, words=("rotated", "rotated", "inverted"))
    assert asked.looks(PICTURE) == [word]


def test_who_knows_no_alteration_has_no_evidence() -> None:
    nothing = Alterations.none(FEATURES)
    pictures = np.full((4, FEATURES), 1e6)
    np.testing.assert_array_equal(nothing.evidence(pictures), np.zeros(4))
    assert nothing.looks(pictures) == [""] * 4
