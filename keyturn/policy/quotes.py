"""Verbatim quotes: what a decision under a line in words only rests on, checked letter by letter. Pure."""

import re
from collections.abc import Sequence

from keyturn.contracts import CredentialFacts
from keyturn.policy.line import PolicyLine
from keyturn.rotations.decisions import Quote

# Shorter runs of words occur in any text, and prove nothing.
LEAST_WORDS = 3
_WORD = re.compile(r"\S+")
# What joins letters and digits to one word or number: non-compliant, owner's, 1,200, 1.5, svc_pay, and/or.
_JOINERS = frozenset("-\u2010\u2011'\u2019.,_/")


def evidence_in_words(facts: CredentialFacts) -> list[str]:
    """Return the evidence as sentences, in the only form in which it may be quoted."""
    return [*_generated(facts), *([facts.notes] if facts.notes else [])]


def _generated(facts: CredentialFacts) -> list[str]:
    """Return the sentences that are made of facts: each ends with the value."""
    phrases = [f"the kind of the credential is {facts.kind}"]
    for name in ("stale", "compromised"):
        value = getattr(facts, name)
        if value is not None:
            phrases.append(f"the credential is {'' if value else 'not '}{name}")
    if facts.age is not None:
        phrases.append(f"the credential is {facts.age.days} days old")
    if facts.unused_for is not None:
        phrases.append(f"the credential was not used for {facts.unused_for.days} days")
    return phrases


def quotes_hold(quotes: Sequence[Quote], lines: Sequence[PolicyLine], facts: CredentialFacts) -> bool:
    """Return True if each line of `lines` has a quote, and each quote occurs in its wording and in the evidence.

    A quote is a run of at least three whole words, or the whole sentence if that is shorter. Of a sentence that is made
    of a fact, it has the value, and leaves out no `not`.
    """
    by_id = {line.id: line for line in lines}
    made = _generated(facts)

    def is_evidence(quote: str) -> bool:
        stated = (one for one in made if one.endswith(quote) and "not" not in one.removesuffix(quote).split())
        return any(_stands_in(quote, one) for one in stated) or bool(facts.notes and _stands_in(quote, facts.notes))

    return {quote.line_id for quote in quotes} == set(by_id) and all(
        _stands_in(quote.wording, by_id[quote.line_id].wording) and is_evidence(quote.evidence) for quote in quotes
    )


def _stands_in(quote: str, text: str) -> bool:
    if quote == text:
        return True
    at = text.find(quote)
    while at >= 0:
        whole = not _continues(text[:at][::-1]) and not _continues(text[at + len(quote) :])
        if whole and len(_WORD.findall(quote)) >= LEAST_WORDS and quote == quote.strip():
            return True
        at = text.find(quote, at + 1)
    return False


def _continues(rest: str) -> bool:
    """Whether a word goes on into `rest`, which is read away from the quote: by a letter or digit, perhaps joined."""
    after_joiner = rest[1:2] if rest[:1] in _JOINERS else rest[:1]
    return after_joiner.isalnum()
