"""What an engine would give, made up, for tests of what is passed on."""

from __future__ import annotations

from captioning.model.engine import Candidates, Caption


def made_up(text: str) -> Candidates:
    """Return one candidate of this text."""
    return (Caption.of(text, [-0.1, -0.2], ended=True),)
