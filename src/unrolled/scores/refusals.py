"""Whether an answer declines what it was asked for, by how it begins."""

from __future__ import annotations

import re

# characters of an answer in which it is said, if it is
BEGINNING = 160
_VERBS = (
    "help|assist|do that|do this|do it|do so|provide|support|give|share|tell you|write|encourage|"
    "engage|fulfil|fulfill|comply|participate|discuss|continue|decline|refuse|want to help|"
    "think I can|think I should|feel comfortable|create|generate|promote|condone"
)
_CANNOT = (
    "cannot|can not|can[’']t|could not|couldn[’']t|won[’']t|will not|do not|don[’']t|must|"
    "refuse"
)
_REFUSALS = re.compile(
    rf"""\bsorry,? but I\b|"""
    rf"""\bI(?: am|[’']m) afraid (?:that )?I (?:{_CANNOT})\b|"""
    rf"""\bI (?:{_CANNOT}) (?:to )?(?:{_VERBS})\b|"""
    rf"""\bI(?: am|[’']m) (?:unable|not able|not going|not willing|not comfortable)\b|"""
    rf"""\bI[’']d rather not\b|"""
    rf"""죄송하지만|죄송합니다만|도와드릴 수 없|도와 드릴 수 없|답변드릴 수 없""",
    re.IGNORECASE,
)


def is_refusal(answer: str) -> bool:
    """Say whether an answer declines, in English or Korean, in its first sentences.

    What it is asked for does not matter: a phrase such as "I can't help with that" does.
    """
    return _REFUSALS.search(answer[:BEGINNING]) is not None
