"""Verbatim quotes: what a decision under a line in words only rests on, checked letter by letter. Pure."""

import re
from collections.abc import Sequence

from keyturn.contracts import CredentialFacts
from keyturn.policy.line import PolicyLine
from keyturn.rotations.decisions import Quote

# Shorter runs of words occur in any text, and prove nothing.
LEAST_WORDS = 3
_WORD = re.compile(r"\S+")


def evidence_in_words(facts: CredentialFacts) -> list[str]:
    """Return the evidence as sentences, in the only form in which it may be quoted."""
    phrases = [f"the kind of the credential is {facts.kind}"]
    for name in ("stale", "compromised"):
        value = getattr(facts, name)
        if value is not None:
            phrases.append(f"the credential is {'' if value else 'not '}{name}")
    if facts.age is not None:
        phrases.append(f"the credential is {facts.age.days} days old")
    if facts.unused_for is not None:
        phrases.append(f"the credential was not used for {facts.unused_for.days} days")
    return [*phrases, *([facts.notes] if facts.notes else [])]


def quotes_hold(quotes: Sequence[Quote], lines: Sequence[PolicyLine], facts: CredentialFacts) -> bool:
    """Return True if each line of `lines` has a quote, and each quote occurs in its wording and in the evidence.

    A quote is a run of at least three whole words, or the whole sentence if that is shorter.
    """
    by_id = {line.id: line for line in lines}
    said = evidence_in_words(facts)
    return {quote.line_id for quote in quotes} == set(by_id) and all(
        _stands_in(quote.wording, by_id[quote.line_id].wording) and any(_stands_in(quote.evidence, one) for one in said)
        for quote in quotes
    )


def _stands_in(quote: str, text: str) -> bool:
    if quote == text:
        return True
    at = text.find(quote)
    while at >= 0:
        before, after = text[:at], text[at + len(quote) :]
        whole = (not before or not before[-1].isalnum()) and (not after or not after[0].isalnum())
        if whole and len(_WORD.findall(quote)) >= LEAST_WORDS and quote == quote.strip():
            return True
        at = text.find(quote, at + 1)
    return False
