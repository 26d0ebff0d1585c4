"""Personal data behind placeholders: mail, telephone, internet address."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

from .collect import missing_package

MAIL, PHONE, ADDRESS = "<mail>", "<phone>", "<ip>"

# Repetition is bounded throughout, so that no input makes these take long.
_MAIL = re.compile(
    r"(?<![\w.+%-])[\w+%-]{1,64}(?:\.[\w+%-]{1,64}){0,8}"
    r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?<!version )\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6 = re.compile(  # hexadecimal groups, at least two colons, no bare "::"
    r"(?<![\w:.])(?=[0-9a-f]{0,4}:[0-9a-f]{0,4}:)(?=:{0,2}[0-9a-f])"
    r"[0-9a-f:]{3,39}(?:(?:\.\d{1,3}){3})?(?![\w:])",
    re.IGNORECASE,
)
# A text without seven digits, a few signs between them, has no telephone.
_DIGITS = re.compile(r"(?:\d[ ()./\-\u2010-\u2015]{0,3}){7}")
# Signs beside a number that is no telephone's: money, sums, book numbers.
_NO_PHONE_BEFORE = re.compile(
    r"(?:\d[.,]|[$€£¥=*/^×÷<>]|\b(?:ISBN|ISSN|USD|EUR|GBP)(?:-1[03])?:?) ?$",
    re.I,
)
_NO_PHONE_AFTER = re.compile(r"[.,]\d| ?[=*/^×÷<>%€£¥]")
_BESIDE = 10  # characters that are looked at before a number


def mask(text: str, region: str = "US") -> tuple[str, Counter[str]]:
    """The text with placeholders, and how many of each were put in.

    Args:
        region: whose telephone numbers are read without a country code.

    >>> mask("Write to tam@lull.example or call +44 20 7946 0958.")[0]
    'Write to <mail> or call <phone>.'
    """
    counts: Counter[str] = Counter()
    for placeholder, change in (
        (MAIL, mask_mail),
        (ADDRESS, mask_addresses),
        (PHONE, lambda text: mask_phones(text, region)),
    ):
        text, count = change(text)
        if count:
            counts[placeholder] = count
    return text, counts


def mask_mail(text: str) -> tuple[str, int]:
    """Mail addresses behind a placeholder, and how many there were.

    >>> mask_mail("Ona (ona@lull.example) has it.")
    ('Ona (<mail>) has it.', 1)
    """
    return _MAIL.subn(MAIL, text) if "@" in text else (text, 0)


def mask_addresses(text: str) -> tuple[str, int]:
    """Internet addresses, version 4 and 6, behind a placeholder.

    >>> mask_addresses("It runs at 192.0.2.7, since 10:45, on version 1.2.3.")
    ('It runs at <ip>, since 10:45, on version 1.2.3.', 1)
    """
    count = 0

    def replace(found: re.Match[str]) -> str:
        nonlocal count
        if not _is_address(found[0]):
            return found[0]
        count += 1
        return ADDRESS

    text = _IPV6.sub(replace, text)  # first: it may end in a version 4
    return _IPV4.sub(replace, text), count


def _is_address(text: str) -> bool:
    """Whether these are an address, and not a version or a slice.

    ``8.2.4.44`` numbers a section and ``[1::2]`` takes every second item,
    though both could be addresses. So version 4 needs a number above 99
    (98 in 100 addresses have one), and version 6 three groups, or a long
    one of letters and digits.
    """
    try:
        version = ipaddress.ip_address(text).version
    except ValueError:
        return False
    if version == 4:
        return any(int(number) > 99 for number in text.split("."))
    groups = [group for group in text.split(":") if group]
    mixed = any(
        len(group) > 2 and not group.isalpha() and not group.isdecimal()
        for group in groups
    )
    return len(groups) > 2 or mixed


def mask_phones(text: str, region: str = "US") -> tuple[str, int]:
    """Telephone numbers behind a placeholder, as a library reads them.

    The library (Google's libphonenumber, in Python) knows which numbers
    each country has and how it groups them. Ten digits without a sign
    between them are left alone: they are more often no telephone.

    >>> mask_phones("Call (212) 555-0187 before 1984, or pay $1,250.00.")
    ('Call <phone> before 1984, or pay $1,250.00.', 1)
    """
    if not _DIGITS.search(text):
        return text, 0
    try:
        from phonenumbers import Leniency, PhoneNumberMatcher
    except ImportError as error:
        raise missing_package(
            "phonenumbers", "find telephone numbers"
        ) from error
    pieces, last, count = [], 0, 0
    grouped = Leniency.STRICT_GROUPING
    for match in PhoneNumberMatcher(text, region, grouped):
        before = text[max(0, match.start - _BESIDE) : match.start]
        after = text[match.end : match.end + 2]
        if (
            match.raw_string.isdecimal()
            or _NO_PHONE_BEFORE.search(before)
            or _NO_PHONE_AFTER.match(after)
        ):
            continue
        pieces += [text[last : match.start], PHONE]
        last, count = match.end, count + 1
    return "".join([*pieces, text[last:]]), count
