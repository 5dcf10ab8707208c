"""Verbatim quotes: what a decision under a line in words only rests on, checked letter by letter. Pure."""

import re
import unicodedata
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

    A quote is a run of at least three whole words, or the whole sentence if that is shorter. What a quote of evidence
    leaves out of its sentence denies nothing, asks nothing and makes no condition; of a sentence that is made of a
    fact, it has the value.
    """
    by_id = {line.id: line for line in lines}
    made = [_folded(one) for one in _generated(facts)]

    def is_evidence(quote: str) -> bool:
        said = _folded(quote)
        stated = (one for one in made if one.endswith(said))
        return any(_stands_in(said, one, whole_sense=True) for one in stated) or bool(
            facts.notes and _stands_in(said, _folded(facts.notes), whole_sense=True)
        )

    return {quote.line_id for quote in quotes} == set(by_id) and all(
        _stands_in(_folded(quote.wording), _folded(by_id[quote.line_id].wording)) and is_evidence(quote.evidence)
        for quote in quotes
    )


# What turns the rest of a sentence round, makes it a question, or a condition.
_DENIES = re.compile(
    r"\b(?:not|no(?!\sdoubt\b)|never|nobody|nothing|none|neither|nor|cannot|false|untrue|wrong|denies|denied"
    r"|(?<!\bno\s)doubts?|if|unless|whether|rumou?r|hardly|refuted|unlikely|ruled\sout|without\s(?:any\s)?evidence"
    r"|suppose[ds]?|suspect(?:ed|s)?|claim(?:ed|s)|alleged(?:ly)?|(?:is|was|has|are|were|did|does|do)nt)\b|n't\b|\?$"
)
# What another clause, or the next sentence, takes back.
_TAKEN_BACK = re.compile(
    r"(?:^|[\s,;])(?:which|this|that|it|but)\s(?:\w+\s){0,3}?"
    r"(?:untrue|false|refuted|denied|disproved|(?:not|wrong)(?=[\s.,;]*$))"
)
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bmr)(?<!\bdr)[.!?;](?=\s|$)|\n")
# Behind the quote, another clause says something else.
_CLAUSE_END = re.compile(r",|;|\b(?:and|but|although|while|without)\b")


def _folded(text: str) -> str:
    """Return a text as quotes are compared: models write other apostrophes, blanks, capitals, and a full stop."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2018", "'")
    return " ".join(plain.split()).casefold().removesuffix(".")


def _stands_in(quote: str, text: str, *, whole_sense: bool = False) -> bool:
    at = text.find(quote) if quote else -1
    while at >= 0:
        before, behind = text[:at], text[at + len(quote) :]
        whole = not _continues(before[::-1]) and not _continues(behind)
        if whole and (len(_WORD.findall(quote)) >= LEAST_WORDS or _is_sentence(before, behind)):
            begins = max((one.end() for one in _SENTENCE_END.finditer(before)), default=0)
            end = _SENTENCE_END.search(behind)
            sentence = behind[: end.end() if end else len(behind)]
            clause = _CLAUSE_END.search(sentence)
            left_out = before[begins:], sentence[: clause.start() if clause else len(sentence)], sentence[-1:]
            next_one = behind[len(sentence) :].lstrip()
            following = next_one[: next_end.end() if (next_end := _SENTENCE_END.search(next_one)) else len(next_one)]
            is_denied = any(_DENIES.search(part) for part in left_out)
            if not (whole_sense and (is_denied or any(map(_TAKEN_BACK.search, (sentence, following))))):
                return True
        at = text.find(quote, at + 1)
    return False


def _is_sentence(before: str, behind: str) -> bool:
    starts = not before or _SENTENCE_END.search(before[-2:]) is not None
    return starts and (not behind or _SENTENCE_END.match(behind) is not None)


def _continues(rest: str) -> bool:
    """Whether a word goes on into `rest`, which is read away from the quote: by a letter or digit, perhaps joined."""
    after_joiner = rest[1:2] if rest[:1] in _JOINERS else rest[:1]
    return after_joiner.isalnum()
