"""Personal data behind placeholders: mail, telephone, internet address."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

from .collect import missing_package

MAIL, PHONE, ADDRESS = "<mail>", "<phone>", "<ip>"

# Bounded repetition throughout: no input makes these take long.
_MAIL = re.compile(
    r"(?<![\w.+%-])[\w+%-]{1,64}(?:\.[\w+%-]{1,64}){0,8}"
    r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9a-fA-F:]{2,39})[0-9a-fA-F:]{2,39}"
    r"(?:\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])"
)
# What may be a telephone number at all: a run of digits and separators.
_DIGITS = re.compile(
    r"(?<![\w.,/])[+(]?\d[\d ()./\-\u2010-\u2015]{5,30}\d(?![\w,])"
)


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

    text = _IPV4.sub(replace, text)
    return _IPV6.sub(replace, text), count


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return text.count(":") != 2 or len(text) > 3


def mask_phones(text: str, region: str = "US") -> tuple[str, int]:
    """Telephone numbers behind a placeholder, as a library reads them.

    >>> mask_phones("Call (212) 555-0187 before 1984, or pay $1,250.00.")
    ('Call <phone> before 1984, or pay $1,250.00.', 1)
    """
    if not _DIGITS.search(text):
        return text, 0
    try:
        from phonenumbers import PhoneNumberMatcher
    except ImportError as error:
        raise missing_package(
            "phonenumbers", "find telephone numbers"
        ) from error
    found = list(PhoneNumberMatcher(text, region))
    for match in reversed(found):
        text = text[: match.start] + PHONE + text[match.end :]
    return text, len(found)
