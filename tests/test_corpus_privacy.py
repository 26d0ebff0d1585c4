"""Personal data: found where it is planted, and nothing else touched."""

from __future__ import annotations

import ipaddress
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook.corpus.privacy import mask, mask_addresses, mask_mail, mask_phones

phonenumbers = pytest.importorskip(
    "phonenumbers", reason='needs pip install "llmbook[data]"'
)

MAILS = [
    "tam@lull.example",
    "ona.miller+kites@mail.lull.example",
    "a_b%c@x-y.co.uk",
    "O.Miller@LULL.EXAMPLE",
    "1234@lull.example",
    "žofie@dům.example",
    "x@a.museum",
    "first.middle.last@sub.domain.lull.example",
]
PHONES = [
    "(212) 555-0187",
    "212-555-0187",
    "212.555.0187",
    "+1 212 555 0187",
    "+44 20 7946 0958",
    "+49 30 901820",
    "+33 1 42 68 53 00",
    "+1-650-253-0000",
    "650 253 0000",
    "(650) 253-0000 ext. 12",
    "+81 3-3224-9999",
    "+61 2 9374 4000",
    "1-800-356-9377",
    "+91 22 2778 2778",
    "+16502530000",
]
ADDRESSES = [
    "192.0.2.7",
    "198.51.100.250",
    "203.0.113.1",
    "10.0.0.101",
    "2001:db8::1",
    "fe80::1",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "::ffff:192.0.2.128",
    "2001:DB8:0:0:8:800:200C:417A",
]
# What looks like one of them and is none.
INNOCENT = """
in 1984, 1999 and 2001 | 1914-1918 | from 1939–1945 on | the 1990s
$12,345,678.90 | 1.234.567,89 euros | USD 2125550187.00 | $650 253 0000
£ 1 250 000 | 2125550187 = 3 * n | 1,000,000,007 | 100 000 000
ISBN 978-3-16-148410-0 | ISBN 0-306-40615-2 | ISBN 9780306406157
ISBN-13: 978 0 306 40615 7 | ISSN 2049-3630 | DOI 10.1000/182
version 1.2.3 | Python 3.11.7 | Linux 5.15.0-91 | v1.2.3.4 | 8.2.4.44
version 10.0.0.1 | section 4.1.2.3.1 | § 12.3.4 | RFC 2616
10:45:32 | at 12:30 | 2024-05-17 | 17/05/2024 | 05.17.2024
2024-05-17T10:45:00 | 10:20:30:40 | Proverbs 3:5-6
3.14159265358979 | 6.02214076e23 | 0.5772156649 | 0x7fff5fbff8c0
2 + 2 = 4 | 12345 * 67890 = 838102050 | 555 - 1234 = -679
(212) * 555 - 187 | 650 + 253 - 0000 | 2125550187 / 17
5-10-15-20-25 | 2 4 6 8 10 12 14 | 18 24 25 29 | 60 72 100 120
std::vector<int> | l[::3] | l[1::2] | a::b | :: | 1::2::3 | dead:beef
256.1.1.1 | 1.2.3 | 1.2.3.4.5 | item 4006381333931
x@y | @tam | tam @ lull | 3 @ 4.50 | @ | a@b.1 | C-3PO
"""


def innocents():
    return [
        piece.strip()
        for line in INNOCENT.strip().splitlines()
        for piece in line.split("|")
    ]


def planted(rng):
    """A sentence with personal data, the same masked, and how many."""
    secret, name = rng.choice(
        [(m, "<mail>") for m in MAILS]
        + [(p, "<phone>") for p in PHONES]
        + [(a, "<ip>") for a in ADDRESSES]
    )
    before, after = rng.choice(innocents()), rng.choice(innocents())
    frame = "They say {}; so I took {}, and then {}. That was all."
    return frame.format(before, secret, after), frame.format(
        before, name, after
    )


def test_precision_and_recall_on_a_planted_set():
    rng = random.Random(0)
    pairs = [planted(rng) for _ in range(600)]
    right = [mask(text)[0] == expected for text, expected in pairs]
    assert all(right)  # each secret is found, each innocent left alone


@pytest.mark.parametrize("text", innocents())
def test_what_only_looks_like_it_is_left_alone(text):
    for sentence in (text, f"It says {text}.", f"({text})", f"{text}\n{text}"):
        assert mask(sentence) == (sentence, {})


@pytest.mark.parametrize("mail", MAILS)
@pytest.mark.parametrize("frame", ["{}", "<{}>", "mailto:{}", "({}).", "{},"])
def test_a_mail_address_is_found_in_any_frame(mail, frame):
    assert mask(frame.format(mail))[0] == frame.format("<mail>")


@pytest.mark.parametrize("phone", PHONES)
@pytest.mark.parametrize("frame", ["Call {}.", "Tel.: {}\n", "{}, or later"])
def test_a_telephone_number_is_found_in_any_frame(phone, frame):
    assert mask_phones(frame.format(phone)) == (frame.format("<phone>"), 1)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("frame", ["{}", "at {}.", "[{}]", "({}),", "{}/24"])
def test_an_internet_address_is_found_in_any_frame(address, frame):
    expected = frame.format("<ip>")
    assert mask_addresses(frame.format(address)) == (expected, 1)


def test_drawn_addresses_are_found_but_for_the_share_that_is_documented():
    rng = random.Random(1)
    four = [
        str(ipaddress.IPv4Address(rng.getrandbits(32))) for _ in range(2000)
    ]
    six = [
        str(ipaddress.IPv6Address(rng.getrandbits(128))) for _ in range(500)
    ]
    found = sum(mask_addresses(f"from {text} on")[1] for text in four)
    assert abs(found / 2000 - (1 - (100 / 256) ** 4)) < 0.015
    assert all(mask_addresses(f"from {text} on")[1] for text in six)


def test_drawn_telephone_numbers_of_many_countries_are_found():
    international = phonenumbers.PhoneNumberFormat.INTERNATIONAL
    missed = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        number = phonenumbers.example_number(region)
        text = phonenumbers.format_number(number, international)
        if not mask_phones(f"Call {text} now.")[1]:
            missed.append(text)
    assert len(missed) <= 2, missed  # of 245 countries and territories


def test_a_region_decides_about_numbers_without_country_code():
    assert mask_phones("Ruf 030 901820 an.", "DE") == ("Ruf <phone> an.", 1)
    assert mask_phones("Ruf 030 901820 an.", "US")[1] == 0


def test_all_of_them_are_counted_by_kind():
    text = "tam@lull.example, ona@lull.example, 192.0.2.7, +44 20 7946 0958"
    masked, counts = mask(text)
    assert masked == "<mail>, <mail>, <ip>, <phone>"
    assert counts == {"<mail>": 2, "<ip>": 1, "<phone>": 1}


@settings(deadline=None, max_examples=100)
@given(st.text("0123456789.:@-+ ()ax\n", max_size=80))
def test_masking_twice_changes_nothing_more(text):
    once = mask(text)[0]
    assert mask(once)[0] == once or "<" in once


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_text_without_digits_and_at_signs_is_untouched(text):
    text = "".join(c for c in text if not c.isdigit() and c not in "@:")
    assert mask(text) == (text, {})


def test_mail_needs_no_library_and_telephones_name_theirs(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    assert mask_mail("tam@lull.example")[1] == 1
    assert mask_phones("no digits") == ("no digits", 0)
    with pytest.raises(ImportError, match=r"llmbook\[data\]"):
        mask_phones("(212) 555-0187")
