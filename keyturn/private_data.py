"""What looks like a secret or a payment card's number, in any text: ours, a person's, or another system's. Pure.

Forms: the issuers' own documents, and the patterns of detect-secrets, which finds secrets in this repository. Its
plugins are not used here: they read a text as it is written, and import an HTTP client of their own.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

# Groups of digits with what people write between them: blanks of any kind, dots, dashes, slashes.
_DIGIT_GROUPS = re.compile(r"\d+(?:[\s.\-\u2010-\u2015/]{1,3}\d+)*")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)  # Azure's key ids
# Ids of AWS's access keys: half of a key, and no secret where they name the key that a request is about.
_KEY_IDS = re.compile(r"(?<![A-Z0-9])(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[0-9A-Z]{16}(?![A-Z0-9])")
# So marked that they are found even in a text whose blanks were taken out.
_MARKED = re.compile(
    r"""
      -----\s?BEGIN[A-Z0-9\ ]*PRIVATE\ ?KEY            # PEM (RFC 7468), OpenSSH, PGP
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
    | eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.      # JSON web tokens
    | [rs]k_(?:live|test)_[0-9A-Za-z]{16,}             # Stripe
    | SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{40,}        # SendGrid
    | pypi-AgE[0-9A-Za-z_-]{50,} | npm_[0-9A-Za-z]{36} | hf_[0-9A-Za-z]{30,} | hv[sb]\.[0-9A-Za-z_-]{24,}
    | dop_v1_[0-9a-f]{64} | shpat_[0-9a-f]{32}
    """,
    re.VERBOSE,
)
_PLAIN = re.compile(
    r"""
      \b(?:sk|pk)-(?:ant-|proj-)?[A-Za-z0-9_-]{16,}    # OpenAI, Anthropic and those that are compatible
    | "private_key"\s*:                                # a service account's key file
    | \b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]+:[^\s/@]{3,}@   # a URL with a password
    | \b(?:passw(?:or)?d|pwd|secret(?:[_ -]?access)?(?:[_ -]?key)?|api[_-]?key|(?:access[_-]?)?token)["']?
        \s*[=:]\s*["']?(?=[^\s"']*\d)[^\s"']{8,}
    | \b(?:bearer|basic)\s+(?=[^\s]*\d)[A-Za-z0-9._~+/-]{20,}
    """,
    re.VERBOSE | re.IGNORECASE,
)
# AWS's secret access keys are 40 letters of Base64 without a mark; so are others' of about that length.
_BARE = re.compile(r"(?<![A-Za-z0-9/+=_-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_-])")
# Azure's storage keys: 64 octets in Base64.
_LONG_BARE = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{86}==")
# What is spelt out in short groups: a letter, or up to five of them, and a blank.
_SPELT = re.compile(r"(?<!\S)(?:\S{1,5}[ \t.\-_]+){7,}\S{1,5}(?!\S)")
_BETWEEN = re.compile(r"[\s\u200b]+")


def holds_private_data(text: str, *, about: tuple[str, ...] = ()) -> bool:
    """Return True if `text` holds what looks like a payment card's number (by its check digit) or a secret.

    It reads through invisible characters, other widths, and blanks between the letters.

    Args:
        text: any.
        about: ids that may stand in it, such as that of the key that a question is about.
    """
    plain = _seen(text)
    for known in about:
        plain = plain.replace(_seen(known), " ")
    if any(_holds_card(re.findall(r"\d+", run)) for run in _DIGIT_GROUPS.findall(_UUID.sub(" ", plain))):
        return True
    if _PLAIN.search(plain) or _LONG_BARE.search(plain):
        return True
    if any(_KEY_IDS.search(one) or _MARKED.search(one) for one in (plain, _BETWEEN.sub("", plain))):
        return True
    return any(_is_random(found) for one in (plain, *_joined(plain)) for found in _BARE.findall(one))


def aws_key_ids(text: str) -> tuple[str, ...]:
    """Return the ids of AWS's access keys that stand in `text`."""
    return tuple(_KEY_IDS.findall(_seen(text)))


def holds_secret(name: str) -> bool:
    """Return True if an id, or another short name, is itself a secret by its mark or by its randomness."""
    plain = _seen(name)
    return bool(_MARKED.search(plain)) or any(_is_random(found) for found in _BARE.findall(plain))


def _seen(text: str) -> str:
    """The text as it is seen: without invisible characters, and in the usual width."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return "".join(
        letter for letter in plain if unicodedata.category(letter) not in {"Cf", "Mn", "Me"} and letter != "\u115f"
    )


def _joined(plain: str) -> Iterator[str]:
    for run in _SPELT.finditer(plain):
        groups = re.split(r"[ \t]+", run.group())
        # Words are of any length; what is spelt out is in equal groups, but for the last.
        for first in range(len(groups)):
            size = len(groups[first])
            same = first
            while same < len(groups) and len(groups[same]) == size:
                same += 1
            if same - first >= 7:
                yield "".join(groups[first : same + 1])
                yield "".join(groups[first:same])


def _is_random(word: str) -> bool:
    """Whether 40 letters look drawn rather than written: of each case, with digits, and hardly one twice."""
    kinds = (any(c.islower() for c in word), any(c.isupper() for c in word), any(c.isdigit() for c in word))
    entropy = -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values())
    # Of 200,000 drawn ones two in a thousand are missed, most for want of a digit; a path has more slashes.
    return all(kinds) and entropy >= 4.2 and word.count("/") <= 4


def _holds_card(groups: list[str]) -> bool:
    """Whether neighbouring groups of digits make a card's number: 13 to 19 digits (ISO/IEC 7812-1), one a check."""
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > 19:
                break
            if len(digits) >= 13 and _passes_luhn(digits):
                return True
    return False


def _passes_luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1
