"""What looks like a secret or a payment card's number, in any text: of this program, a person, or a system. Pure.

Forms: the issuers' own documents, and the patterns of detect-secrets, which finds secrets in this repository. Its
plugins are not used here: they read a text as it is written, and import an HTTP client of their own.

Every pattern takes time in proportion to the text: otherwise a caller could stop a worker with a question.
"""

import base64
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

# Ids of AWS's access keys: half of a key, and no secret where they name the key that a request is about.
_KEY_IDS = re.compile(r"(?<![A-Z0-9])(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}(?![A-Z0-9])")
# So marked that they are found even in a text whose blanks were taken out.
_MARKED = re.compile(
    r"""
      -----\s?(?i:BEGIN)[A-Za-z0-9\ ]*(?i:KEY|CERTIFICATE|MESSAGE)   # PEM (RFC 7468), OpenSSH, PGP
    | PuTTY-User-Key-File
    | github_pat_[0-9A-Za-z_]{22,}
    | gh[pousr]_[0-9A-Za-z]{30,}                       # GitHub
    | glpat-[0-9A-Za-z_-]{20,}                         # GitLab
    | xox[abeposr]-[0-9A-Za-z-]{10,} | xapp-\d-[0-9A-Za-z-]{10,} | hooks\.slack\.com/services/T\w+/B\w+/\w+   # Slack
    | AIza[0-9A-Za-z_-]{30,}                           # Google API keys
    | ya29\.[0-9A-Za-z_-]{20,}                         # Google access tokens
    | GOCSPX-[0-9A-Za-z_-]{20,}                        # Google OAuth clients
    | [0-9A-Za-z_~.-]{3}\dQ~[0-9A-Za-z_~.-]{31,34}     # Microsoft Entra client secrets
    | (?:AccountKey|SharedAccessKey)=[0-9A-Za-z+/]{40,}={0,2}   # Azure Storage, Service Bus, Event Hubs
    | [?&]sig=[0-9A-Za-z%+/]{40,}                      # Azure's shared access signatures
    | [?&]X-Amz-(?:Signature|Security-Token)=[0-9A-Za-z%+/]{40,}    # AWS's presigned addresses
    | eyJ[0-9A-Za-z_-]{10,400}\.[0-9A-Za-z_-]{10,}\.   # JSON web tokens
    | [rs]k_(?:live|test)_[0-9A-Za-z]{16,} | whsec_[0-9A-Za-z+/]{24,}   # Stripe
    | SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{40,}        # SendGrid
    | pypi-AgE[0-9A-Za-z_-]{50,} | npm_[0-9A-Za-z]{36} | hf_[0-9A-Za-z]{30,} | hv[sb]\.[0-9A-Za-z_-]{24,}
    | dckr_pat_[0-9A-Za-z_-]{20,} | gl(?:rt|dt|cbt|ptt)-[0-9A-Za-z_-]{20,} | dapi[0-9a-f]{32}
    | (?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[0-9A-Za-z+/=]{40,}     # AWS's session tokens
    | dop_v1_[0-9a-f]{64} | shpat_[0-9a-f]{32} | AGE-SECRET-KEY-1[0-9A-Z]{50,}
    """,
    re.VERBOSE,
)
_PRIVATE_KEY_FIELD = re.compile(r'"private_key(?:_pem)?"\s*:', re.IGNORECASE)  # of a service account's key file
# OpenAI, Anthropic and compatible ones: at least one part is random, which distinguishes them from words with dashes.
_SK = re.compile(r"(?<![A-Za-z0-9])[sp]k-[A-Za-z0-9_-]{16,}", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^\s/:@]{0,100}:([^\s/@]{3,200})@")
# What a name of a secret is set to: in an environment, YAML, JSON, a command line, a header, a sentence.
_ASSIGNED = re.compile(
    r"""
    (?:passw(?:or)?d|passwort|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key)
    (?:[_-]?(?:access[_-]?)?(?:key|value|string))?["'`]?
    (?:\s{0,3}(?P<sign>=>|:=|[=:])\s{0,3}|(?P<said>\s{1,3}(?:is|was|lautet|ist)\s{1,3})|(?P<flag>(?<=[A-Za-z])\ ))
    ["'`]?(?P<value>[^\s"'`,;]{6,200})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_HEADER = re.compile(r"\b(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/=-]{12,})", re.IGNORECASE)
# AWS's secret access keys are 40 letters of Base64 without a mark; so are others' of about that length.
_BARE = re.compile(r"(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])")
_KINDS = tuple(map(re.compile, ("[a-z]", "[A-Z]", "[0-9]")))
# Azure's storage keys: 64 octets in Base64.
_LONG_BARE = re.compile(r"(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{86}==")
_BETWEEN = re.compile(r"[\s\u200b]+")
_TOKEN = re.compile(r"[A-Za-z0-9/+]+")
SHORTEST_ID = 8  # a shorter one, taken out of a text, could take a secret apart

# Not a secret, but where it is to be found, a stand-in for it, a time.
_STAND_IN = re.compile(
    r"[*x•.\-_]+|[$%<{\[(].*|\*\*.*|(?:redacted|changeme|hidden|masked).*"
    r"|required|optional|missing|expired|unknown|rotated|revoked|invalid",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"(?:\w+:)?//.*|[a-z]+:[a-z].*|~?\.{0,2}/.*|(?:projects|organizations|vault|secret)/.*", re.IGNORECASE
)
_TIME = re.compile(
    r"\d{1,5}-?(?:days?|hours?|weeks?|months?|years?)"
    r"|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ]\d\d:\d\d.*)?|\d\d:\d\d.*"
)
_WORD = re.compile(r"[A-Za-z]+\d{0,4}")
# A word, a number, or a short mark such as v2: the parts of names and ids with dashes.
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d{1,5}|[A-Za-z]{1,3}\d{1,5}|[0-9a-f]{6,}")

# In groups as on the card, or in one run, or in single digits: 13 to 19 of them (ISO/IEC 7812-1).
_GAP = r"[\s.\-\u2010-\u2015/_,·]{1,3}"
_CARD = re.compile(
    rf"(?<![\w.])(?:\d{{4}}(?:{_GAP}\d{{4}}){{3}}(?:{_GAP}\d{{1,3}})?|\d{{4}}{_GAP}\d{{6}}{_GAP}\d{{4,5}}"
    rf"|\d{{13,19}}|\d(?:{_GAP}\d){{12,18}}|\d{{2}}(?:{_GAP}\d{{2}}){{7}})(?!\w)"
)
# The networks' prefixes and lengths, as ISO/IEC 7812's registered ones are published by the networks themselves.
_NETWORK = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}"
    r"|6(?:011|5\d\d|4[4-9]\d|2\d\d)\d{12,15}|(?:50|5[6-9]|6[0-9])\d{14}"
)


def holds_private_data(text: str, *, about: tuple[str, ...] = (), allow_key_ids: bool = False) -> bool:
    """Return True if `text` contains what looks like a payment card's number (by its check digit) or a secret.

    It reads through invisible characters, other widths, and blanks, dots and dashes between the letters.

    Args:
        text: any.
        about: ids that may occur in it, such as that of the key that a question is about; whole, and of 8 characters or
            more.
        allow_key_ids: whether the ids of AWS's access keys may occur in it.
    """
    plain = _visible_text(text)
    if allow_key_ids:
        plain = _KEY_IDS.sub(" ", plain)
    for known in about:
        if len(known) >= SHORTEST_ID:
            plain = re.sub(rf"(?<![\w/+-]){re.escape(_visible_text(known))}(?![\w/+-])", " ", plain)
    return _holds_secret(plain) or any(_is_card(found) for found in _CARD.findall(plain))


def holds_secret(name: str) -> bool:
    """Return True if an id, or another short name, is itself a secret or a card number."""
    plain = _visible_text(name)
    # The id of an access key is no secret as an id: it is what the request is about.
    return _holds_secret(_KEY_IDS.sub(" ", plain), of_one_word=True) or (
        _CARD.fullmatch(plain) is not None and _is_card(plain)
    )


def _holds_secret(plain: str, *, of_one_word: bool = False) -> bool:
    spelt = () if of_one_word else (_BETWEEN.sub("", plain), *_join_groups(plain))
    return (
        _PRIVATE_KEY_FIELD.search(plain) is not None
        or _LONG_BARE.search(plain) is not None
        or any(any(map(_is_drawn, re.split("[-_]", found))) for found in _SK.findall(plain))
        or any(not _STAND_IN.fullmatch(found) for found in _URL_PASSWORD.findall(plain))
        or any(_is_value(found) for found in _ASSIGNED.finditer(plain))
        or any(_is_credential(found) for found in _HEADER.findall(plain))
        or any(_KEY_IDS.search(one) or _MARKED.search(one) for one in (plain, *spelt))
        or any(_is_random(found) for one in (plain, *spelt[1:]) for found in _BARE.findall(one))
    )


def _visible_text(text: str) -> str:
    """The text as it is seen: without invisible characters, and in the usual width."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return "".join(
        letter for letter in plain if unicodedata.category(letter) not in {"Cf", "Mn", "Me"} and letter != "\u115f"
    )


def _join_groups(plain: str) -> Iterator[str]:
    """What is spelt out in equal groups, put together: words are of any length, and such groups are not."""
    run: list[re.Match[str]] = []
    for token in _TOKEN.finditer(plain):
        if run:
            gap = plain[run[-1].end() : token.start()]
            is_near = len(gap) <= 3 and not gap.strip(" \t\r\n.-_,:|*")
            size, before = len(token.group()), len(run[0].group())
            if is_near and size == before <= 10:
                run.append(token)
                continue
            if len(run) >= 4:
                yield "".join(one.group() for one in run)
                if is_near and size < before:  # the last group is what was left over
                    yield "".join(one.group() for one in (*run, token))
        run = [token]
    if len(run) >= 4:
        yield "".join(one.group() for one in run)


def _is_value(found: re.Match[str]) -> bool:
    """Whether what a secret's name is set to is the secret, and not a word, a stand-in or a place."""
    value = found["value"].rstrip(".!?)")
    if len(value) < 6 or any(form.fullmatch(value) for form in (_STAND_IN, _PLACE, _TIME)):
        return False
    if found["sign"] in {"=", ":=", "=>"}:
        return True
    if found["flag"] is not None:
        return _is_drawn(value) and not _is_name(value)
    kinds = (any(c.isdigit() for c in value), any(c.isalpha() for c in value))
    return all(kinds) and not _is_name(value)


def _is_credential(found: str) -> bool:
    """Whether what follows `Bearer` or `Basic` is a credential, and not the next word of a sentence."""
    return _is_basic(found) or (not _WORD.fullmatch(found) and (_is_drawn(found) or found.endswith("=")))


def _is_basic(found: str) -> bool:
    """Whether it is a name and a password as HTTP's Basic scheme writes them (RFC 7617): `user:password` in Base64."""
    try:
        pair = base64.b64decode(found, validate=True).decode("ascii")
    except ValueError:
        return False
    return pair.isprintable() and ":" in pair


def _is_name(value: str) -> bool:
    """Whether it is put together of words and numbers as names and ids are: prod-db-2024, acct_10234, OPS-12345."""
    parts = re.split(r"[-_.:/@#]", value)
    return all(_PART.fullmatch(part) for part in parts if part) and (len(parts) > 1 or value.isalpha())


def _is_drawn(word: str) -> bool:
    """Whether a part of a token is long, with letters and digits both: so are drawn ones, and no words."""
    return len(word) >= 12 and any(c.isdigit() for c in word) and any(c.isalpha() for c in word)


def _is_random(word: str) -> bool:
    """Whether 40 letters look drawn rather than written: of each case, with digits, and hardly one twice."""
    if word.count("/") > 4 or not all(kind.search(word) for kind in _KINDS):  # most are paths, and ids in hexadecimal
        return False
    # Of 200,000 drawn ones two in a thousand are missed, most for want of a digit; a path has more slashes.
    return -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values()) >= 4.2


def _is_card(written: str) -> bool:
    digits = "".join(str(int(one)) for one in written if one.isdigit())
    # In fours, what follows the sixteen may be the card's date or code.
    read = {digits} if written.isdigit() else {digits, digits[:16]}
    return any(_NETWORK.fullmatch(one) and _passes_luhn(one) for one in read)


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1
