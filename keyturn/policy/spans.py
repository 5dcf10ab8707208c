"""Spans of time and dates in prose: what a policy's wording, or a text about it, names. Pure."""

import re
import unicodedata
from datetime import date

# The numbers that are spelt out in prose.
_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "couple": 2,
}  # fmt: skip
_TIMES = {"hundred": 100, "dozen": 12}
_MINUTES_IN = {
    "minute": 1, "hour": 60, "day": 1_440, "week": 7 * 1_440, "fortnight": 14 * 1_440, "month": 30 * 1_440,
    "quarter": 90 * 1_440, "year": 365 * 1_440, "decade": 3_650 * 1_440,
}  # fmt: skip
_UNITS = {
    "min": "minute", "h": "hour", "hr": "hour", "d": "day", "w": "week", "wk": "week", "mo": "month", "mth": "month",
    "qtr": "quarter", "y": "year", "yr": "year",
}  # fmt: skip
_ADVERBS = {
    "annually": 365, "yearly": 365, "per annum": 365, "semi-annually": 182.5, "semiannually": 182.5,
    "half-yearly": 182.5, "biannually": 182.5, "quarterly": 90, "monthly": 30, "fortnightly": 14, "weekly": 7,
}  # fmt: skip
# Of what is done to keys: "we look at this weekly" is no interval of theirs.
_ADVERB = re.compile(
    rf"\b(?:rotat|renew|chang|replac)\w*[^.!?\n]{{0,40}}?(?<![\w-])({'|'.join(_ADVERBS)})(?![\w-])", re.IGNORECASE
)
_NUMBER = "|".join(sorted({**_WORDS, **_TIMES}, key=len, reverse=True))
_UNIT = "|".join(sorted({**_MINUTES_IN, **_UNITS}, key=len, reverse=True))
_BETWEEN = (
    r"(?:(?:calendar|business|working|full|whole|complete|consecutive|straight|further|additional|extra|other|more|fewer"
    r"|less|or|so|of)[\s-]+){0,3}"
)
_TIME_SPAN = re.compile(
    rf"\b(?:(\d{{1,3}}(?:,\d{{3}})+|\d{{1,5}}(?:[.,]\d{{1,2}})?)[+)]?[\s-]*+(?:\([a-z -]{{1,40}}\)[\s-]*+)?"
    rf"|((?:(?:half|quarter)\s(?:of\s)?(?:an?|one)|(?:{_NUMBER})(?:[\s-](?:and\s)?(?:{_NUMBER})){{0,5}})"
    r"(?:\sand\sa\shalf)?)[\s-]+)"
    rf"{_BETWEEN}({_UNIT})s?\b",
    re.IGNORECASE,
)
_ISO_SPAN = re.compile(r"\bP(\d{1,5})([DWMY])\b")
_ISO_UNITS = {"D": 1, "W": 7, "M": 30, "Y": 365}
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_EMPHASIS = re.compile(r"(?<!\w)[*_`~]{1,3}(?=\w)|(?<=\w)[*_`~]{1,3}(?!\w)")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_ISO_DATE = re.compile(r"(?<![\d.-])(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?![\d-])")
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?:\sof)?[\s-]{_MONTH},?[\s-](\d{{4}})\b", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"\b{_MONTH}\s(\d{{1,2}})(?:st|nd|rd|th)?,?\s(\d{{4}})\b", re.IGNORECASE)


def plain(text: str) -> str:
    """Return `text` as it would be typed: one form of each letter, dash and apostrophe, and no marks of emphasis."""
    folded = _DASHES.sub("-", unicodedata.normalize("NFKC", text)).replace("\u2019", "'").replace("\u2018", "'")
    return _EMPHASIS.sub("", folded)


def days_named(text: str) -> set[float]:
    """Return every span of time that `text` names, in days: in figures or words, and in units from minutes to years."""
    text = plain(text)
    spans = {float(_ADVERBS[one[1].lower()]) for one in _ADVERB.finditer(text)}
    spans |= {float(number) * _ISO_UNITS[unit] for number, unit in _ISO_SPAN.findall(text)}
    for figure, words, unit in _TIME_SPAN.findall(text):
        number = _figure(figure) if figure else _number(words)
        if words.lower() in {"a", "an"} and unit.lower() in {"minute", "min"}:
            continue  # it takes a minute
        if number is not None:
            spans.add(number * _MINUTES_IN[_UNITS.get(unit.lower(), unit.lower())] / _MINUTES_IN["day"])
    return spans


def dates_named(text: str) -> set[date]:
    """Return every date that `text` names with its year: 2026-12-01, 1 December 2026, December 1, 2026."""
    text = plain(text)
    found = [(int(year), int(month), int(day)) for year, month, day in _ISO_DATE.findall(text)]
    found += [(int(year), _month(month), int(day)) for day, month, year in _DAY_FIRST.findall(text)]
    found += [(int(year), _month(month), int(day)) for month, day, year in _MONTH_FIRST.findall(text)]
    return {date(*one) for one in found if _is_date(*one)}


def _month(name: str) -> int:
    return _MONTHS.index(name[:3].lower()) + 1


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _figure(figure: str) -> float:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+", figure):
        return float(figure.replace(",", ""))
    return float(figure.replace(",", "."))


def _number(words: str) -> float | None:
    """The number that `words` name, such as one hundred and eighty; None if they name none."""
    total, below_hundred = 0.0, 0.0
    if words.lower().startswith(("half", "quarter")):
        return 0.5 if words.lower().startswith("half") else 0.25
    for word in re.split(r"[\s-]+", words.lower()):
        if word in _TIMES:
            total, below_hundred = total + max(below_hundred, 1) * _TIMES[word], 0.0
        elif word == "couple":  # a couple of
            below_hundred = 2
        elif word == "half":
            below_hundred += 0.5
        elif word in _WORDS and not (word in {"a", "an"} and below_hundred):
            below_hundred += _WORDS[word]
    return total + below_hundred or None
