"""The town of Lull: who lives there, what stands there, what is wished.

Everything here holds in every document, so that a model can learn it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .engine import Option, Rule

RANK_OF_FIRST = 2  # with fourteen words the first is drawn every fifth time

PRONOUNS = {
    "she": {"he": "she", "He": "She", "him": "her", "his": "her",
            "His": "Her"},
    "he": {"he": "he", "He": "He", "him": "him", "his": "his",
           "His": "His"},
}  # fmt: skip

PERSON_FIELDS = ("pronoun", "sells", "home", "pet", "fears", "habit")
PEOPLE = {
    "Ona": ("she", "string", "the narrow house behind the mill",
            "goat in a waistcoat", "geese", "hums to the rain"),
    "Tam": ("he", "buttons", "the green house at the harbour",
            "patient snail", "thunder", "counts every stair"),
    "Mirrel": ("she", "soup", "the round house on the hill",
               "very old hen", "whistling", "wears two hats"),
    "Bo": ("he", "umbrellas", "the last house before the wood",
           "crow with good manners", "dust", "talks to the well"),
    "Hesper": ("she", "candles", "the tall house beside the tower",
               "moth on a thread", "the dark", "walks backwards"),
    "Joss": ("he", "honey", "the yellow house in the orchard",
             "polite bee", "bears", "sleeps till noon"),
    "Nell": ("she", "maps", "the crooked house near the bridge",
             "dog that is always lost", "corners", "waves at trains"),
    "Pim": ("he", "hats", "the low house under the lighthouse",
            "crab in a teacup", "wind", "bows to strangers"),
    "Ibby": ("she", "ink", "the blue house behind the school",
             "cat with white feet", "spelling", "writes on walls"),
    "Dov": ("he", "bread", "the warm house above the bakery",
            "mouse of great learning", "pigeons", "sings to the oven"),
    "Wren": ("she", "keys", "the house with nine doors by the pond",
             "owl that snores", "locks", "knocks on trees"),
    "Anselm": ("he", "clocks", "the silent house at the station",
               "tortoise in a hurry", "being early", "irons the curtains"),
}  # fmt: skip

PLACE_FIELDS = ("stands", "odd", "famous", "forbidden")
PLACES = {
    "mill": ("beside the pond", "turns only on Tuesdays",
             "flour as fine as fog", "counting the flour"),
    "pond": ("at the foot of the hill", "has room for exactly one swan",
             "one very proud swan", "swimming in a hat"),
    "bridge": ("between the market and the wood",
               "squeaks when somebody tells a lie",
               "forty loose boards", "running on tiptoe"),
    "well": ("behind the school", "answers politely",
             "water that tastes of pears", "shouting after dark"),
    "market": ("in front of the tower", "opens when the goat arrives",
               "a stall that sells nothing", "paying with pears"),
    "orchard": ("on the sunny side of the hill",
                "grows one golden pear a year",
                "ladders without owners", "shaking the trees"),
    "tower": ("in the middle of Lull", "says noon all day long",
              "a clock that is often asleep", "asking for the time"),
    "harbour": ("at the end of the long street", "smells of rope and oranges",
                "a boat called Patience", "feeding the boats"),
    "wood": ("on the other side of the bridge", "is older than the map",
             "a blue door with no house", "whistling at the moss"),
    "hill": ("behind the orchard", "gets a little higher every winter",
             "wind that knows your name", "rolling upwards"),
    "station": ("where the road gives up", "waits for a train that is late",
                "a bench with a cushion", "waving too early"),
    "lighthouse": ("on a rock in the bay", "shines green for ships it likes",
                   "a stair that nobody has finished", "knocking at low tide"),
    "school": ("across from the bakery", "has seven benches for six children",
               "chalk in every colour but white", "sneezing in verse"),
    "bakery": ("next to the market", "is warm even in January",
               "buns shaped like sheep", "naming the buns"),
}  # fmt: skip

SPOTS = ("at the mill", "by the pond", "on the bridge", "beside the well",
         "at the market", "in the orchard", "under the tower",
         "at the harbour", "at the edge of the wood", "on the hill",
         "at the station", "below the lighthouse", "behind the school",
         "outside the bakery")  # fmt: skip

WISH_FIELDS = ("past", "at", "tools")
WISHES = {
    "send a letter to the moon": ("sent a letter to the moon", "on the hill",
                                  ("kite", "balloon")),
    "light the dark end of the bridge": ("lit the dark end of the bridge",
                                         "on the bridge",
                                         ("lantern", "candlestick")),
    "wake the clock in the tower": ("woke the clock in the tower",
                                    "under the tower", ("drum", "bell")),
    "cross the pond with dry feet": ("crossed the pond with dry feet",
                                     "by the pond", ("raft", "barrel")),
    "open the blue door in the wood": ("opened the blue door in the wood",
                                       "in the wood", ("key", "spoon")),
    "see the far side of the sea": ("saw the far side of the sea",
                                    "at the lighthouse",
                                    ("telescope", "ladder")),
    "bring the goat through the rain": ("brought the goat through the rain",
                                       "at the market",
                                       ("umbrella", "blanket")),
    "catch the golden pear": ("caught the golden pear", "in the orchard",
                              ("basket", "net")),
    "teach the hens to dance": ("taught the hens to dance",
                                "behind the school", ("fiddle", "flute")),
    "mend the sail of the Patience": ("mended the sail of the Patience",
                                      "at the harbour",
                                      ("needle", "ribbon")),
    "sweep the stars out of the well": ("swept the stars out of the well",
                                        "beside the well",
                                        ("broom", "feather")),
    "carry the moon home": ("carried the moon home", "by the pond",
                            ("bucket", "jar")),
}  # fmt: skip

LOOKS = ("red", "small", "crooked", "silver", "patched", "striped", "dusty",
         "heavy", "wobbly", "speckled", "famous", "green", "borrowed",
         "golden", "handsome", "nervous")  # fmt: skip
WEATHERS = ("windy", "foggy", "rainy", "frosty", "bright", "stormy", "sleepy",
            "cold")  # fmt: skip
HOURS = ("morning", "afternoon", "evening", "night")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
        "Sunday")  # fmt: skip
NUMBERS = ("two", "three", "four", "seven", "nine", "eleven", "forty")
BEASTS = ("goat", "swan", "crow", "goose", "owl", "heron", "donkey", "cat",
          "hedgehog", "mayor")  # fmt: skip
TOOLS = tuple(tool for *_, tools in WISHES.values() for tool in tools)
FOODS = (  # none of them in the plural: there *is* more of it
    "pear soup", "warm bread", "honey cake", "cold porridge", "onion pie",
    "egg salad", "plum jam", "gingerbread",
)  # fmt: skip
NAME_STARTS = ("Zor", "Bel", "Qui", "Vam", "Plo", "Dri", "Mum", "Tiv", "Gos",
               "Fen", "Kar", "Lup", "Yad", "Hob", "Cle", "Wim")  # fmt: skip
NAME_ENDS = ("ba", "lo", "nik", "rim", "tuf", "wex", "dle", "mox", "zan",
             "gus", "pip", "ka")  # fmt: skip


def latin_square(
    rows: Iterable[str], columns: Iterable[str], every: int, rest: int
) -> frozenset[tuple[str, str]]:
    """Pairs to be held out: each row and each column lends a few.

    The pair of row i and column j is held where i + j leaves ``rest`` when
    divided by ``every``. A hash would sometimes take all pairs of one row;
    this never does.

    >>> sorted(latin_square("xyz", "ab", 3, 0))
    [('x', 'a'), ('z', 'b')]
    """
    columns = tuple(columns)
    return frozenset(
        (row, column)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        if (i + j) % every == rest
    )


def capital(text: str) -> str:
    """The text with its first letter made large."""
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun with its indefinite article.

    >>> article("umbrella"), article("kite")
    ('an umbrella', 'a kite')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def person(name: str) -> Option:
    """A villager, with pronouns and lasting facts."""
    facts = dict(zip(PERSON_FIELDS, PEOPLE[name], strict=True))
    return Option(name, sets={**facts, **PRONOUNS[facts["pronoun"]]})


def thing(noun: str) -> Option:
    """A thing that can change hands: ``kite``."""
    sets = {"the": f"the {noun}", "The": f"The {noun}", "a": article(noun)}
    return Option(noun, sets=sets)


def a_thing(noun: str) -> Option:
    """The same with its article: ``a kite``, ``an umbrella``."""
    return Option(article(noun), sets={**thing(noun).sets, "": noun})


def place(noun: str) -> Option:
    """A place in Lull, with its lasting facts."""
    return Option(
        noun, sets=dict(zip(PLACE_FIELDS, PLACES[noun], strict=True))
    )


def wish(text: str) -> Option:
    """A wish; ``past`` is how it sounds when it has come true."""
    past, at, tools = WISHES[text]
    return Option(
        text,
        sets={"past": past, "at": at, "At": capital(at),
              "tools": " ".join(tools)},
    )  # fmt: skip


def words(name: str, texts: tuple[str, ...]) -> Rule:
    """A rule that draws one of the texts, the first ones more often.

    >>> words("word", ("the", "of", "and")).options[0].weight
    0.5
    """
    return ranked(name, [Option(text) for text in texts])


def ranked(name: str, options: list[Option]) -> Rule:
    """A rule whose options grow rarer from first to last.

    As in any language (Zipf 1949), and it makes the common half of the
    world quick to learn.
    """
    return Rule(
        name,
        [
            replace(option, weight=1 / (rank + RANK_OF_FIRST))
            for rank, option in enumerate(options)
        ],
    )
