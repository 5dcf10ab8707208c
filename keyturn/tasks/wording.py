"""What none of our texts may say: private data, and the promise of an action. Pure, and on the side of caution."""

import re
import unicodedata
from collections.abc import Mapping

from keyturn.private_data import holds_private_data
from keyturn.rotations.decisions import Rejection, RejectionReason

_DONE = (
    r"(?:created|opened|scheduled|started|queued|completed|rotated|deleted|disabled|revoked|deactivated|replaced|swapped"
    r"|changed|renewed|reissued|reset|regenerated|retired|removed|rolled|terminated|invalidated|executed|finished|done)"
)
# What an action is said of, by whom, and how. A wish, a rule, a condition or a fact of the past is none: see below.
_ACTOR = r"\b(?:i|we|keyturn|our\ \w+)\b"
_PASSIVE = r"\b(?:has\ been|have\ been|had\ been|was|were|is\ being|are\ being|will\ be|got|gets|is|are|'s)"
_ACTION = re.compile(
    rf"""
      \b(?:job(?:_\w+)?|rotation|key|credential|password|request|it|this|ticket)\b[^.!?\n]{{0,60}}?
        {_PASSIVE}\ (?:(?:now|already|all|just|fully|successfully|also|been|automatically)\ ){{0,2}}{_DONE}\b
    | {_ACTOR}(?:'ve|'ll|'re|'m|\ have|\ has|\ will|\ just|\ already|\ am|\ are|\ now
        |\ shall|\ going\ to){{0,3}}
        \ (?:{_DONE}|rotat(?:e|ing)|creat(?:e|ing)|schedul(?:e|ing)|delet(?:e|ing)|disabl(?:e|ing)|revok(?:e|ing))\b
    | {_ACTOR}(?:'ve|'ll|\ have|\ will|\ just|\ already|\ now){{0,3}}
        \ (?:(?:filed|submitted|raised|initiated|triggered|kicked\ off)\b
        |tak(?:e|en|ing)\ care\ of\ (?:it|this|that|everything|rotating|(?:the|your)\ (?:rotation|key))\b)
    | {_ACTOR}(?:\W{{1,3}}\w+){{0,4}}?\W{{1,3}}(?:and\W{{1,3}})?
        (?:swapped|rotated|replaced|revoked|deleted|disabled|deactivated|renewed|reissued|regenerated|retired|reset)\b
    | \bjob\ (?:id\b|job_|created\b|done\b)
    | {_ACTOR}(?:'ll|\ will|\ shall)\ (?:(?:now|then|also|just|soon|go|ahead|and)\ ){{0,3}}
        (?:swap|replace|renew|reset|roll|retire|remove|reissue|regenerate|deactivate|issue|rotate)\b
    | {_ACTOR}(?:'m|'re|\ am|\ are)\ going\ to\ (?:swap|replace|renew|rotate|roll|retire|remove|deactivate)\b
    | \brotation\ (?:is\ (?:now\ |already\ )?(?:underway|under\ way|in\ progress|on\ its\ way|running)
        |(?:starts|begins)\ (?:now|today|tonight|tomorrow|shortly))\b
    | \bnew\ (?:key|credential|password|secret)\ (?:is|'s)
        \ (?:now\ |already\ )?(?:live|active|ready|in\ place|in\ use)\b
    | \bold\ (?:key|credential|password|secret)\ (?:is\ gone|stops\ working)\b
    | \bconsider\ it\ {_DONE}\b
    | ^\W*(?:(?:the|your|this)\ )?(?:key|rotation|credential|password)
        \ (?:(?:now|already|successfully)\ )?(?:complete|{_DONE})\W*$
    """,
    re.VERBOSE | re.IGNORECASE,
)
# What makes a fact, a rule, a wish or a condition of it: read in what was found, and in words around it.
_FACT_WITHIN = re.compile(
    r"""
      \b(?:when|once|until|till|after|before|if|unless|whether|that|which|how|must|should|may|can|could|would|to)\s
        (?:\w+[\s-]){0,6}?(?:is|are|be|been|was|were|gets?)\s
    | \b(?:not|never|nothing|cannot)\b | n't\b
    | \b(?:last|previously|originally|first)\s\w+$
    | \b(?:recommend|requires?|ask|suggest|advise|propose|want|expect)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FACT_BEFORE = re.compile(
    r"\b(?:no|neither|nor|when|once|until|till|after|before|if|unless|whether|make\ssure|check|ensure|that)\s"
    r"(?:\w+\s){0,2}$",
    re.IGNORECASE,
)
_FACT_BEHIND = re.compile(
    r"\s(?:\w+\s){0,2}\d+\s(?:\w+\s)?(?:hours?|days?|weeks?|months?|years?)\sago\b"
    r"|\s(?:every|each|at\ least|within|by\ hand|only|once|after|when|if|as\ soon)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?\n]")
_EMPHASIS = re.compile(r"(?<!\w)[*_`~]{1,3}(?=\w)|(?<=\w)[*_`~]{1,3}(?!\w)")

# What leads a reader elsewhere: addresses in any form, markup that a mail program would follow, and numbers to call.
_TLD = (
    r"(?:com|net|org|io|dev|app|info|biz|co|ai|cloud|online|site|xyz|top|ru|cn|de|uk|eu|fr|nl|ch|pl|jp|br|au|ca|us|me"
    r"|ly|gg|sh|tech|store|shop|link|click|live|page|support|help|academy|zip|test|local|internal|example|invalid"
    r"|xn--[a-z0-9-]{2,59}|\u0440\u0444|\u0443\u043a\u0440)"
)
_LINK = re.compile(
    rf"""
      (?<![a-z0-9+.-])[a-z][a-z0-9+.-]{{1,20}}://              # any scheme
    | \b(?:mailto|javascript|data|tel|sms):\S
    | \bwww\.\w
    | (?<![\w.+-])[\w.+-]{{1,64}}@[\w-]{{1,63}}\.[\w-]         # mail
    | (?<![\w.-])(?!(?:asp|vb|ado|ml)\.net\b)(?:[\w-]{{1,63}}\.){{1,8}}{_TLD}(?![\w-])
    | (?<![\w.-])(?:[\w-]{{2,63}}\.){{1,8}}[a-z]{{2,24}}(?::\d{{2,5}}|/[\w?\#~%])
    | !?\[[^\]\[\n]{{0,200}}\](?:\(|\[|:\s*\S+[./])           # markdown: link, image, reference
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DEFANGED = re.compile(r"(?<=\w)\s?[\[({]\s?(?:\.|dot)\s?[\])}]\s?(?=\w)|(?<=\w)\u3002(?=[a-z])", re.IGNORECASE)
# Versions and the numbers of requirements are written like IPv4 addresses.
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_NUMBERED = re.compile(
    r"\b(?:versions?|v|releases?|requirements?|req|sections?|clauses?|controls?|chapters?)[.:]?\s"
    r"(?:\d[\d.]*(?:,\s|\sand\s|\sor\s|,\sand\s)){0,5}$",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<[a-z/!?]|&(?:#\w{1,8}|[a-z]\w{1,30});", re.IGNORECASE)
_PHONE = re.compile(
    r"""
      (?<![\w.])(?:\+|00)\d{1,3}(?:[\s./()-]{0,2}\d{1,5}){2,6}(?!\w)     # international (ITU-T E.123)
    | (?<!\w)\(\d{2,5}\)[\s./-]?\d{2,5}(?:[\s./-]?\d{2,5}){1,3}(?!\w)    # an area code in brackets
    | (?<![\w.-])(?:1[\s.-])?\d{3}[\s.-]\d{3}[\s.-]\d{4}(?![\w-])        # North America
    | (?<![\w.-])0\d{1,4}[\s/-]\d{3,8}(?:[\s-]?\d{2,4}){0,3}(?![\w-])    # with a trunk prefix
    | \b(?:call|dial|phone|ring|tel(?:ephone)?|fax|hotline|whatsapp|text|sms)\b[^\d.!?\n]{0,30}
        \d(?:[\s./()-]{0,2}\d){5,14}(?!\w)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DATE = re.compile(
    r"(?<![\d.])(?:\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4})(?!\d)|\b\d\d:\d\d(?::\d\d)?(?:\.\d+)?"
)
# Who is asked for a secret, in an order, a need or a question: from the verb to the thing there are only words that
# carry no other sense, so that a sentence about a key is none.
_FILLER = (
    r"(?:us|me|it|them|back|in|into|with|over|here|below|the|your|their|a|an|this|that|current|old|new|full|both|complete"
    r"|actual|to|at|on|by|for|reply|message|e?-?mail|chat|form|service|account|key's|copy|of|and|its|value|text|plain"
    r"|aws|gcp|azure|or|own|private|root|admin|user|login|[\w.@:/-]*(?:[\d_]|'s)[\w.@:/-]*)"
)
_THING = (
    r"(?:secrets?(?:\ access)?(?:\ keys?)?|passwords?|passphrases?|passcodes?|private\ keys?|api[\ -]?keys?"
    r"|access\ keys?(?!\ ids?)|key\ material|(?:access\ |session\ |api\ )?tokens?|pin|otp"
    r"|(?:one-time|verification|security|recovery|backup|mfa|2fa|authentication)\ codes?|login\ details|credentials)"
)
_ASKS_FOR_SECRET = re.compile(
    rf"""
    (?<!\w)(?:
        (?:send|reply|respond|share|provide|paste|post|forward|submit|include|attach|e-?mail|enter|type|write|upload|dm|message|supply
           |return|disclose|reveal|copy|put|fill\ in|hand\ over|read\ out)
      | (?:give|tell|show)\ (?:us|me|them) | let\ (?:us|me)\ (?:know|have|see)
      | (?:need|require|want)(?:\ to\ (?:know|see|have))?(?=\ your|\ the\ actual)
      | (?:confirm|verify|validate|repeat|sign\ in\ with|log\ in\ with)(?=\ your)
      | what(?:'s|\ is|\ was)(?=\ your)
    )\s+(?:{_FILLER}[\s,]+){{0,8}}?{_THING}\b
    | (?<!\w)(?:paste|upload|attach|(?:reply|respond)\ with|send\ (?:us|me)|e-?mail\ (?:us|me))
        \s+(?:{_FILLER}[\s,]+){{0,8}}?(?:json\ |\.?pem\ |\.?p12\ )?(?:keys?(?:\s?files?)?|(?:pem|p12|json)\ files?)\b
        (?=\s*(?:[.,;:!?)]|$|(?:here|below|now|today|back|in\ this|to\ (?:us|me))\b))
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FORBIDS = re.compile(
    r"\b(?:not|never|n't|nobody|no\ one|without|cannot|no\ need\ to)\b[^.!?;\n]{0,40}$", re.IGNORECASE
)


# Hosts, mail addresses and addresses of networks, as logs and messages have them.
_NAMED = re.compile(
    r"(?<![\w@/:.+-])(?:[\w.+-]{1,64}@)?(?:[\w-]{1,63}\.){1,8}[\w-]{1,63}(?:(?<=\d)[:/]\d{1,5})?", re.ASCII
)


def without_names(text: str, given: str) -> str:
    """Return a text without the hosts, mail addresses and network addresses that stand whole in `given`, too.

    Bare, they lead nowhere; with a scheme or a path they stay.
    """
    known = {one.rstrip(".").casefold() for one in _NAMED.findall(given)}

    def replaced(found: re.Match[str]) -> str:
        goes_on = re.match(r"[\\/?#@]|\.\w|:\d", text[found.end() : found.end() + 2])
        return " " if found[0].rstrip(".").casefold() in known and goes_on is None else found[0]

    return _NAMED.sub(replaced, text)


# Why, in words: of any task's text.
ELSEWHERE: Mapping[str, str] = {
    "hidden_characters": "The text holds invisible characters, or characters that change the direction of writing.",
    "holds_link": "The text holds an address or a link that the policy does not give.",
    "holds_markup": "The text holds markup: it is plain text.",
    "holds_phone_number": "The text holds what looks like a phone number.",
    "asks_for_secret": "The text asks for a secret, a password or a key.",
}


def leads_elsewhere(text: str) -> RejectionReason | None:
    """Return what of `text` would lead a reader elsewhere, as a reason; None if nothing does."""
    if _holds_hidden(text):
        return "hidden_characters"
    plain = _DEFANGED.sub(".", unicodedata.normalize("NFKC", text).replace("\u2019", "'"))
    if _LINK.search(plain) or any(not _NUMBERED.search(plain[: one.start()]) for one in _IPV4.finditer(plain)):
        return "holds_link"
    if _MARKUP.search(plain):
        return "holds_markup"
    if any(sum(map(str.isdigit, one.group())) >= 7 for one in _PHONE.finditer(_DATE.sub(" ; ", plain))):
        return "holds_phone_number"
    asked = any(
        not _FORBIDS.search(plain[max(0, one.start() - 60) : one.start()]) for one in _ASKS_FOR_SECRET.finditer(plain)
    )
    return "asks_for_secret" if asked else None


def _holds_hidden(text: str) -> bool:
    for place, letter in enumerate(text):
        if letter in "\r\n\t" or unicodedata.category(letter) not in {"Cf", "Cc", "Co", "Cs"}:
            continue
        # The joiners belong to the spelling of Persian and Hindi words, and to emoji.
        between = text[max(0, place - 1) : place], text[place + 1 : place + 2]
        if letter not in "\u200c\u200d" or any(not one or one.isascii() for one in between):
            return True
    return False


def fit_text(text: object, longest: int, *, may_mention_actions: bool = False) -> str | Rejection:
    """Return `text` trimmed if it may be shown and stored, at most `longest` characters; else why not."""
    if not isinstance(text, str) or not _is_unicode(text):
        return Rejection(reason="malformed_answer", explanation="What should be text is not.")
    if not text.strip():
        return Rejection(reason="empty_answer", explanation="The text is empty.")
    if len(text) > longest:
        return Rejection(reason="too_long", explanation=f"The text is over {longest:,} characters.")
    if holds_private_data(text):
        return Rejection(reason="private_data", explanation="The text holds a card number or a secret.")
    if not may_mention_actions and promises_action(text):
        return Rejection(reason="promised_action", explanation="The text says that something was or will be done.")
    return text.strip()


def _is_unicode(text: str) -> bool:
    """Whether it is whole: JSON can write half of a surrogate pair, for which the replacement character stands then."""
    return re.search("[\ud800-\udfff\ufffd]", text) is None


def promises_action(text: str) -> bool:
    """Return True if `text` says that something was done or will be: no text of a model acts, so none may say so."""
    plain = _EMPHASIS.sub("", text.replace("\u2019", "'"))  # models write the typographic apostrophe, and bold words
    for sentence in _SENTENCE_END.split(plain):
        for found in _ACTION.finditer(sentence):
            if not (
                _FACT_WITHIN.search(found[0])
                or _FACT_BEFORE.search(sentence, max(0, found.start() - 40), found.start())
                or _FACT_BEHIND.match(sentence, found.end())
            ):
                return True
    return False
