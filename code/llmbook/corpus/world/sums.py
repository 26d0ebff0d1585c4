"""Word problems from Lull: sums of one or two steps, worked in words.

A problem begins with a pile (of buns, of geese), the pile grows and
shrinks, and somebody asks how large it is. The answer writes every sum out
and ends as those of GSM8K do (Cobbe et al. 2021): ``#### 7``. What is kept
out of training is a sum, ``("+", 7, 5)``, wherever it stands in a problem.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from . import lexicon
from .engine import Grammar, Kind, Option, Page, Rule, at_random, write
from .tales import WORDS

Step = tuple[str, int, int]  # ("+", 7, 5): what is done to a pile of seven

PILES = range(2, 16)  # how many there are at first: never one bun alone
STEP_MOST = 9  # one digit: a table of sums as children learn it
PILE_MOST = 20  # so that all sums with two steps stay in that table
BOXES = range(2, 10)
IN_EACH = range(2, 6)
ODDS_TO_ASK = 2.0  # after one step, against 1 for a gain and 1 for a loss
HELD_EVERY = 7  # one sum in seven is kept out of training

DO: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}

ITEMS = {
    "buns": "bun", "pears": "pear", "hats": "hat", "spoons": "spoon",
    "feathers": "feather", "snails": "snail", "eggs": "egg",
    "bells": "bell", "boots": "boot", "plums": "plum", "stamps": "stamp",
    "shells": "shell", "teapots": "teapot", "kites": "kite",
}  # fmt: skip
GOODS = {  # what each of them sells, as one can count it
    "Ona": ("ball of string", "balls of string"),
    "Tam": ("button", "buttons"),
    "Mirrel": ("bowl of soup", "bowls of soup"),
    "Bo": ("umbrella", "umbrellas"),
    "Hesper": ("candle", "candles"),
    "Joss": ("jar of honey", "jars of honey"),
    "Nell": ("map", "maps"),
    "Pim": ("hat", "hats"),
    "Ibby": ("bottle of ink", "bottles of ink"),
    "Dov": ("loaf of bread", "loaves of bread"),
    "Wren": ("key", "keys"),
    "Anselm": ("clock", "clocks"),
}
CREATURES = {
    "geese": "goose", "hens": "hen", "crows": "crow", "mice": "mouse",
    "donkeys": "donkey", "owls": "owl", "hedgehogs": "hedgehog",
    "swans": "swan", "children": "child", "strangers": "stranger",
}  # fmt: skip
CONTAINERS = ("baskets", "boxes", "sacks", "drawers", "buckets", "jars",
              "barrels", "suitcases")  # fmt: skip

START = {
    "own": [
        "<A=person> had <a=sum.pile> <item=sum.item>.",
        "<A=person> kept <a=sum.pile> <item=sum.item> under {A.his} bed.",
        "In the kitchen of <A=person> lay <a=sum.pile> <item=sum.item>.",
        "<A=person> woke up with <a=sum.pile> <item=sum.item>, and nobody "
        "knew why.",
        "On <day> <A=person> found <a=sum.pile> <item=sum.item> <spot>.",
        "An aunt left <A=person> <a=sum.pile> <item=sum.item> and no advice.",
        "There were <a=sum.pile> <item=sum.item> in {A.home}, all of them "
        "the work of <A=person>.",
        "<A=person>, who {A.habit}, owned <a=sum.pile> <item=sum.item>.",
    ],
    "shop": [
        "<A=sum.seller> carried <a=sum.pile> {A.many} to the market.",
        "In the shop of <A=sum.seller> there were <a=sum.pile> {A.many}.",
        "On <day> <A=sum.seller> counted <a=sum.pile> {A.many} on the shelf.",
        "<A=sum.seller> sells {A.sells}, and one <hour=hour> {A.he} had "
        "<a=sum.pile> {A.many}.",
        "Before breakfast <A=sum.seller> had made <a=sum.pile> {A.many}.",
    ],
    "place": [
        "There were <a=sum.pile> <item=sum.creature> <spot=spot>.",
        "One <hour=hour> <a=sum.pile> <item=sum.creature> sat <spot=spot>.",
        "On <day> <a=sum.pile> <item=sum.creature> met <spot=spot> to talk "
        "about the weather.",
        "If you had stood <spot=spot>, you would have seen <a=sum.pile> "
        "<item=sum.creature>.",
        "For no reason at all, <a=sum.pile> <item=sum.creature> stood in a "
        "row <spot=spot>.",
    ],
    "pair": [
        "<A=person> has <a=sum.pile> <item=sum.item>, and <B=partner> has "
        "<n=sum.fewer>.",
        "<A=person> found <a=sum.pile> <item=sum.item> <spot>. <B=partner> "
        "found <n=sum.fewer>.",
        "In one hat <A=person> has <a=sum.pile> <item=sum.item>. In another "
        "<B=partner> has <n=sum.fewer>.",
        "<A=person> and <B=partner> both collect <item=sum.item>. {A} owns "
        "<a=sum.pile> and {B} owns <n=sum.fewer>.",
    ],
    "boxes": [
        "<A=person> has <a=sum.boxes> <box=sum.box> with <n=sum.each> "
        "<item=sum.item> in each.",
        "In {A.home} stood <a=sum.boxes> <box=sum.box>, and in each lay "
        "<n=sum.each> <item=sum.item>.",
        "<A=person> filled <a=sum.boxes> <box=sum.box>. Into each went "
        "<n=sum.each> <item=sum.item>.",
        "For <a=sum.boxes> days <A=person> found <n=sum.each> "
        "<item=sum.item> a day <spot>.",
        "<A=person> asked <a=sum.boxes> friends for help, and each of them "
        "brought {A.him} <n=sum.each> <item=sum.item>.",
    ],
}
