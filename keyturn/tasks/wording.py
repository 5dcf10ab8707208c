"""What no text of ours may say: private data, and the promise of an action. Pure, and on the side of caution."""

import re
import unicodedata

from keyturn.contracts import Rejection, RejectionReason
from keyturn.private_data import holds_private_data

# The numbers that people spell out.
_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100,
}  # fmt: skip
_DAYS_IN = {"hour": 1 / 24, "day": 1, "week": 7, "fortnight": 14, "month": 30, "quarter": 90, "year": 365}
_UNITS = {
    "h": "hour", "hr": "hour", "d": "day", "w": "week", "wk": "week", "mo": "month", "mth": "month", "qtr": "quarter",
    "y": "year", "yr": "year",
}  # fmt: skip
_NUMBER = "|".join(sorted(_WORDS, key=len, reverse=True))
_TIME_SPAN = re.compile(
    rf"\b(?:(\d{{1,5}})\)?[\s-]*|((?:(?:{_NUMBER})[\s-]+)?(?:{_NUMBER}))[\s-]+)"
    r"(?:(?:calendar|business|working|full)[\s-]+)?"
    r"(hour|day|week|fortnight|month|quarter|year|hr|wk|mo|mth|qtr|yr|h|d|w|y)s?\b",
    re.IGNORECASE,
)
_DONE = (
    r"(?:created|opened|scheduled|started|queued|completed|rotated|deleted|disabled|revoked|deactivated|replaced|swapped"
    r"|changed|renewed|reissued|reset|regenerated|retired|removed|rolled|terminated|invalidated|executed|finished|done)"
)
_ACTION = re.compile(
    rf"""
      \b(?:job(?:_\w+)?|rotation|key|credential|request|it|ticket)\b[^.!?\n]{{0,60}}?
        \b(?:has\ been|have\ been|was|were|is\ being|is\ now|will\ be)\ (?:\w+\ )?{_DONE}\b
    | \b(?:i|we|keyturn)\b(?:'ve|'ll|\ have|\ has|\ will|\ just|\ already|\ am|\ are){{0,3}}\ +
        (?:{_DONE}|rotat(?:e|ing)|creat(?:e|ing)|schedul(?:e|ing)|delet(?:e|ing)|disabl(?:e|ing)|revok(?:e|ing))\b
    | \b(?:i|we|keyturn|our\ \w+)\b(?:\W+\w+){{0,4}}?\W+(?:and\W+)?
        (?:swapped|rotated|replaced|revoked|deleted|disabled|deactivated|renewed|reissued|regenerated|retired|reset)\b
    | \bjob\ (?:id\b|job_|created\b|done\b)
    """,
    re.VERBOSE | re.IGNORECASE,
)


# What leads a reader elsewhere: addresses in any form, markup that a mail program would follow, and numbers to call.
_LINK = re.compile(
    r"""
      \b[a-z][a-z0-9+.-]{1,20}://                              # any scheme
    | \b(?:mailto|javascript|data|tel|sms):\S
    | \bwww\.\w
    | \b[\w.+-]+@[\w-]+(?:\.[\w-]+)+                           # mail
    | \b(?:[a-z0-9-]+\.)+(?:com|net|org|io|dev|app|info|biz|co|ai|cloud|online|site|xyz|top|ru|cn|de|uk|eu|us|me)\b
    | !?\[[^\]\n]*\]\s*[(\[:]                                  # markdown: link, image, reference
    | \b\d{1,3}(?:\.\d{1,3}){3}\b                              # an IPv4 address
    """,
    re.VERBOSE | re.IGNORECASE,
)
_MARKUP = re.compile(r"<[a-z/!?][^>]*>?|&(?:#\w+|\w+);", re.IGNORECASE)
_PHONE = re.compile(r"(?<![\w.])(?:(?:\+|00)\d{1,3}[\s./-]?)?\(?\d{2,4}\)?(?:[\s./-]?\(?\d{2,4}\)?){2,4}(?!\w|\.\w)")
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?)?")
_ASKS = (
    r"(?:send|reply|respond|answer|share|provide|paste|post|forward|give|tell|confirm|enter|submit|include|attach"
    r"|e?mail)"
)
_PRIVATE_THING = (
    r"(?:secret(?:\ access)?(?:\ key)?|password|passphrase|private\ key|access\ key|key\ material|token|credentials?"
    r"|pin|otp|code)"
)
_ASKS_FOR_SECRET = re.compile(rf"\b{_ASKS}\b[^.!?\n]{{0,60}}?\b{_PRIVATE_THING}\b", re.IGNORECASE | re.VERBOSE)


def leads_elsewhere(text: str) -> RejectionReason | None:
    """Return what of `text` would lead a reader elsewhere, as a reason; None if nothing does."""
    if any(unicodedata.category(letter) in {"Cf", "Cc", "Co", "Cs"} and letter not in "\n\t" for letter in text):
        return "hidden_characters"
    plain = unicodedata.normalize("NFKC", text)
    if _LINK.search(plain):
        return "holds_link"
    if _MARKUP.search(plain):
        return "holds_markup"
    if _PHONE.search(_DATE.sub(" ", plain)):
        return "holds_phone_number"
    return "asks_for_secret" if _ASKS_FOR_SECRET.search(plain) else None


def fit_text(text: object, longest: int, *, may_tell_of_actions: bool = False) -> str | Rejection:
    """Return `text` trimmed if it may be shown and stored as ours, at most `longest` characters; else why not."""
    if not isinstance(text, str) or not _is_unicode(text):
        return Rejection(reason="malformed_answer", explanation="What should be text is not.")
    if not text.strip():
        return Rejection(reason="empty_answer", explanation="The text is empty.")
    if len(text) > longest:
        return Rejection(reason="too_long", explanation=f"The text is over {longest:,} characters.")
    if holds_private_data(text):
        return Rejection(reason="private_data", explanation="The text holds a card number or a secret.")
    if not may_tell_of_actions and promises_action(text):
        return Rejection(reason="promised_action", explanation="The text says that something was or will be done.")
    return text.strip()


def _is_unicode(text: str) -> bool:
    """Whether it can be stored: JSON can write half of a surrogate pair, and nothing else can."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def promises_action(text: str) -> bool:
    """Return True if `text` says that something was done or will be: no text of a model acts, so none may say so."""
    return _ACTION.search(text.replace("\u2019", "'")) is not None  # models write the typographic apostrophe


def days_named(text: str) -> set[float]:
    """Return every span of time that `text` names, in days: in figures or words, and in units from hours to years."""
    spans: set[float] = set()
    for figure, words, unit in _TIME_SPAN.findall(text):
        number = int(figure) if figure else _number(words)
        if number is not None:
            spans.add(number * _DAYS_IN[_UNITS.get(unit.lower(), unit.lower())])
    return spans


def _number(words: str) -> int | None:
    """The number that the last one or two of `words` name; None if they name none."""
    *tens, last = re.split(r"[\s-]+", words.lower())
    if last not in _WORDS:
        return None
    units, before = _WORDS[last], _WORDS.get(tens[-1], 0) if tens else 0
    return units + before if units < 10 <= before < 100 else units
