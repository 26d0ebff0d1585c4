"""Questions about what everybody in Lull knows, open and with four letters.

A fact is a pair, such as Ona and what she sells. Every fact is stated in
the documents of :mod:`.facts` and of the stories, for what is never said
cannot be known. But some pairs are never *asked* in training: neither "What
does Ona sell?" nor "Who sells string?". Answering them takes putting
together what was read there and how questions are answered elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from . import lexicon, tales
from .engine import Kind, Option, Page, Rule, Rules, mass
from .lexicon import capital

Scene = Mapping[str, str]
LETTERS = "ABCD"


@dataclass(frozen=True)
class Topic:
    """How one attribute is asked for.

    Args:
        ask: questions in words.
        reply: answers to any of them.
        stems: what four answers follow; without a question mark the answer
            finishes the sentence.
        value: the answer as it stands behind a letter, inside a sentence.
    """

    ask: tuple[str, ...]
    reply: tuple[str, ...]
    stems: tuple[str, ...]
    value: Callable[[Scene], tuple[str, ...]] = field(repr=False)


def _value(key: str) -> Callable[[Scene], tuple[str, ...]]:
    return lambda scene: (scene[key],)


def _the_place(scene: Scene) -> tuple[str, ...]:
    return (f"the {scene['P']}",)


def _tools(scene: Scene) -> tuple[str, ...]:
    return tuple(map(lexicon.article, scene["wish.tools"].split()))


def _known_person(name: str) -> dict[str, str]:
    sets = dict(lexicon.person(name).sets)
    sets["apet"] = lexicon.article(sets["pet"])
    for key in ("sells", "home", "apet", "fears"):
        sets[capital(key)] = capital(sets[key])
    return {"": name, **sets}


def _known_place(noun: str) -> dict[str, str]:
    sets = dict(lexicon.place(noun).sets)
    for key in ("stands", "famous", "forbidden"):
        sets[capital(key)] = capital(sets[key])
    return {"": noun, **sets}


def _known_wish(text: str) -> dict[str, str]:
    return {"": text, **lexicon.wish(text).sets}


KEYS = {"person": "A", "place": "P", "wish": "wish"}  # in the scene
KNOWN = {
    "person": {name: _known_person(name) for name in lexicon.PEOPLE},
    "place": {noun: _known_place(noun) for noun in lexicon.PLACES},
    "wish": {text: _known_wish(text) for text in lexicon.WISHES},
}
CLASS_SHARES = {"person": 0.42, "place": 0.36, "wish": 0.22}
BACKWARD_SHARE = 0.3  # who sells string, against what Ona sells

_WHO = ("{A}.", "That is {A}.", "It must be {A}.", "{A}, of course.")
_WHICH = ("The {P}.", "That is the {P}.", "It must be the {P}.",
          "The {P}, of course.")  # fmt: skip
# Attribute, whether asked forward or backward, and the words for it.
TOPICS: dict[str, dict[str, tuple[Topic, Topic | None]]] = {
    "person": {
        "sells": (
            Topic(
                (
                    "What does <A=who> sell?",
                    "What can you buy from <A=who>?",
                    "What do you find in the shop of <A=who>?",
                    "What does <A=who> keep on the shelves?",
                ),
                (
                    "{A.Sells}.",
                    "{A.He} sells {A.sells}.",
                    "{A.Sells}, and nothing else.",
                    "You will find {A.sells} there.",
                ),
                (
                    "What does <A=who> sell?",
                    "In the shop of <A=who> you can buy",
                    "Which of these things does <A=who> sell?",
                ),
                _value("A.sells"),
            ),
            Topic(
                (
                    "Who sells <A=by-sells>?",
                    "Whose shop is full of <A=by-sells>?",
                    "Who in Lull lives on <A=by-sells>?",
                ),
                _WHO,
                (
                    "Who sells <A=by-sells>?",
                    "The one who sells <A=by-sells> is",
                ),
                _value("A"),
            ),
        ),
        "home": (
            Topic(
                (
                    "Where does <A=who> live?",
                    "Where is <A=who> at home?",
                    "Where does <A=who> sleep?",
                    "Where should you look for <A=who> at supper?",
                ),
                (
                    "In {A.home}.",
                    "You find {A.him} in {A.home}.",
                    "{A.He} lives in {A.home}.",
                    "In {A.home}, where there is always a light.",
                ),
                (
                    "Which house is the home of <A=who>?",
                    "Letters for <A=who> go to",
                    "Every night <A=who> comes home to",
                ),
                _value("A.home"),
            ),
            Topic(
                (
                    "Who lives in <A=by-home>?",
                    "Who is at home in <A=by-home>?",
                    "Who gets the letters for <A=by-home>?",
                ),
                _WHO,
                (
                    "Who lives in <A=by-home>?",
                    "The light in <A=by-home> belongs to",
                ),
                _value("A"),
            ),
        ),
        "pet": (
            Topic(
                (
                    "Which animal lives with <A=who>?",
                    "Who is the best friend of <A=who>?",
                    "What kind of pet does <A=who> have?",
                    "Who sits beside <A=who> at supper?",
                ),
                (
                    "{A.Apet}.",
                    "It is {A.apet}.",
                    "That is {A.his} {A.pet}.",
                    "{A.Apet}, and they are never apart.",
                ),
                (
                    "Which animal lives with <A=who>?",
                    "<A=who> shares every supper with",
                    "The best friend of <A=who> is",
                ),
                _value("A.apet"),
            ),
            Topic(
                (
                    "Who lives with <A=by-apet>?",
                    "Whose best friend is <A=by-apet>?",
                    "Who shares supper with <A=by-apet>?",
                ),
                _WHO,
                (
                    "Who shares supper with <A=by-apet>?",
                    "The one who lives with <A=by-apet> is",
                ),
                _value("A"),
            ),
        ),
        "fears": (
            Topic(
                (
                    "What does <A=who> fear?",
                    "What is <A=who> afraid of?",
                    "What should nobody mention to <A=who>?",
                    "What does <A=who> not like at all?",
                ),
                (
                    "{A.Fears}.",
                    "{A.He} fears {A.fears}.",
                    "Only {A.fears}.",
                    "{A.Fears}, more than anything.",
                ),
                (
                    "What does <A=who> fear?",
                    "<A=who> is afraid of",
                    "When <A=who> is in the room, never mention",
                ),
                _value("A.fears"),
            ),
            Topic(
                (
                    "Who fears <A=by-fears>?",
                    "Who is afraid of <A=by-fears>?",
                    "Who does not like <A=by-fears>?",
                ),
                _WHO,
                (
                    "Who is afraid of <A=by-fears>?",
                    "The one who fears <A=by-fears> is",
                ),
                _value("A"),
            ),
        ),
        "habit": (
            Topic(
                (
                    "What does <A=who> do when nobody is looking?",
                    "What is the habit of <A=who>?",
                    "What do people say about <A=who>?",
                    "What is a little odd about <A=who>?",
                ),
                (
                    "{A.He} {A.habit}.",
                    "They say that {A.he} {A.habit}.",
                    "Now and then {A.he} {A.habit}.",
                    "{A} {A.habit}, and why not?",
                ),
                (
                    "When nobody is looking, <A=who>",
                    "Everybody in Lull knows that <A=who>",
                    "It is quite usual that <A=who>",
                ),
                _value("A.habit"),
            ),
            Topic(
                (
                    "Who <A=by-habit>?",
                    "Who in Lull <A=by-habit>?",
                    "Who is it that <A=by-habit>?",
                ),
                _WHO,
                ("Who <A=by-habit>?", "The one who <A=by-habit> is"),
                _value("A"),
            ),
        ),
    },
    "place": {
        "stands": (
            Topic(
                (
                    "Where is the <P=where>?",
                    "Where do you find the <P=where>?",
                    "Where should a stranger look for the <P=where>?",
                    "Where on the map is the <P=where>?",
                ),
                (
                    "{P.Stands}.",
                    "It is {P.stands}.",
                    "You find it {P.stands}.",
                    "{P.Stands}, where it has always been.",
                ),
                (
                    "Where is the <P=where>?",
                    "You find the <P=where>",
                    "A stranger who wants to see the <P=where> has to look",
                ),
                _value("P.stands"),
            ),
            Topic(
                (
                    "What is <P=by-stands>?",
                    "What do you find <P=by-stands>?",
                    "Which place is <P=by-stands>?",
                ),
                _WHICH,
                (
                    "Which place is <P=by-stands>?",
                    "The place <P=by-stands> is",
                ),
                _the_place,
            ),
        ),
        "odd": (
            Topic(
                (
                    "What is odd about the <P=where>?",
                    "What is strange about the <P=where>?",
                    "What do children like about the <P=where>?",
                    "What should you know about the <P=where>?",
                ),
                (
                    "It {P.odd}.",
                    "The {P} {P.odd}.",
                    "People say that it {P.odd}.",
                    "Nobody minds it, but it {P.odd}.",
                ),
                (
                    "It is odd, but the <P=where>",
                    "Everybody in Lull knows that the <P=where>",
                    "Children like the <P=where> because it",
                ),
                _value("P.odd"),
            ),
            Topic(
                (
                    "What <P=by-odd>?",
                    "What in Lull <P=by-odd>?",
                    "Which place <P=by-odd>?",
                ),
                _WHICH,
                ("Which place <P=by-odd>?", "The place that <P=by-odd> is"),
                _the_place,
            ),
        ),
        "famous": (
            Topic(
                (
                    "What is the <P=where> famous for?",
                    "What do people remember about the <P=where>?",
                    "What brings visitors to the <P=where>?",
                    "What has the <P=where> got that others have not?",
                ),
                (
                    "{P.Famous}.",
                    "It is famous for {P.famous}.",
                    "{P.Famous}, they say.",
                    "Above all {P.famous}.",
                ),
                (
                    "What is the <P=where> famous for?",
                    "People come to the <P=where> because of",
                    "What everybody remembers about the <P=where> is",
                ),
                _value("P.famous"),
            ),
            Topic(
                (
                    "What is famous for <P=by-famous>?",
                    "Which place is famous for <P=by-famous>?",
                    "Which place has <P=by-famous>?",
                ),
                _WHICH,
                (
                    "Which place is famous for <P=by-famous>?",
                    "If you want to see <P=by-famous>, go to",
                ),
                _the_place,
            ),
        ),
        "forbidden": (
            Topic(
                (
                    "What is forbidden at the <P=where>?",
                    "What does the sign at the <P=where> say?",
                    "What should you never do at the <P=where>?",
                    "What is not allowed at the <P=where>?",
                ),
                (
                    "{P.Forbidden}.",
                    "No {P.forbidden}.",
                    "A sign forbids {P.forbidden}.",
                    "{P.Forbidden}, even on Sundays.",
                ),
                (
                    "What is forbidden at the <P=where>?",
                    "A sign at the <P=where> forbids",
                    "You have to leave the <P=where> if you are caught",
                ),
                _value("P.forbidden"),
            ),
            Topic(
                (
                    "Which place forbids <P=by-forbidden>?",
                    "Which place has a sign against <P=by-forbidden>?",
                    "Which place does not allow <P=by-forbidden>?",
                ),
                _WHICH,
                (
                    "Which place has a sign against <P=by-forbidden>?",
                    "If you are fond of <P=by-forbidden>, do not go to",
                ),
                _the_place,
            ),
        ),
    },
    "wish": {
        "tools": (
            Topic(
                (
                    "What do you need to <wish=what>?",
                    "What should you take along to <wish=what>?",
                    "What helps somebody who wants to <wish=what>?",
                    "With what can you <wish=what>?",
                ),
                (
                    "<thing=A-tool>.",
                    "You need <thing=a-tool>.",
                    "Most people use <thing=a-tool>.",
                    "<thing=A-tool>, and a little patience.",
                ),
                (
                    "What do you need to <wish=what>?",
                    "To <wish=what> you need",
                    "It is possible to <wish=what>, but only with",
                ),
                _tools,
            ),
            Topic(
                (
                    "What is <wish=by-tools> for?",
                    "What can you do with <wish=by-tools>?",
                    "Why would anybody in Lull want <wish=by-tools>?",
                ),
                (
                    "To {wish}.",
                    "You need it to {wish}.",
                    "With luck you can {wish}.",
                    "It helps if you want to {wish}.",
                ),
                (
                    "What is <wish=by-tools> for?",
                    "People in Lull use <wish=by-tools>",
                ),
                lambda scene: (f"to {scene['wish']}",),
            ),
        ),
        "at": (
            Topic(
                (
                    "Where do people <wish=what>?",
                    "Where should you stand to <wish=what>?",
                    "Where is the right place to <wish=what>?",
                    "Where would you go to <wish=what>?",
                ),
                (
                    "{wish.At}.",
                    "It is done {wish.at}.",
                    "The right place is {wish.at}.",
                    "{wish.At}, on a quiet day.",
                ),
                (
                    "Where do people <wish=what>?",
                    "The right place to <wish=what> is",
                    "Those who want to <wish=what> should stand",
                ),
                _value("wish.at"),
            ),
            None,
        ),
    },
}


# One in five facts about people is never asked, and one in four of the
# others: each person and each place lends one, each attribute a few.
HELD = (
    lexicon.latin_square(lexicon.PEOPLE, TOPICS["person"], 5, 2)
    | lexicon.latin_square(lexicon.PLACES, TOPICS["place"], 4, 1)
    | lexicon.latin_square(lexicon.WISHES, TOPICS["wish"], 4, 1)
)


def _topic(key: str) -> Topic:
    of, attribute, way = key.split()
    return TOPICS[of][attribute][way == "back"]


def _keys(of: str) -> list[tuple[str, float]]:
    """The topics of a class with their shares, which sum to one."""
    keys = []
    for attribute, (_, back) in TOPICS[of].items():
        share = BACKWARD_SHARE if back else 0.0
        keys.append((f"{of} {attribute} on", 1 - share))
        if back:
            keys.append((f"{of} {attribute} back", share))
    return [(key, share / len(TOPICS[of])) for key, share in keys]


def _asking(of: str, words: Callable[[Topic], tuple[str, ...]]) -> list:
    """An option for each way of asking about a class."""
    return [
        Option(template, share / len(words(_topic(key))), key)
        for key, share in _keys(of)
        for template in words(_topic(key))
    ]


def _weighed(options: list[Option], share: float) -> list[Option]:
    return [replace(o, weight=o.weight * share) for o in options]


ASK = Rule(
    "question",
    [
        option
        for of, share in CLASS_SHARES.items()
        for option in _weighed(_asking(of, lambda topic: topic.ask), share)
    ],
)
REPLIES = {
    key: Rule(f"reply:{key}", _topic(key).reply)
    for of in TOPICS
    for key, _ in _keys(of)
}


def _subject(of: str, name: str) -> Rule:
    """Draws whom or what it is about, all of them equally often."""
    return Rule(
        name, [Option(text, sets=known) for text, known in KNOWN[of].items()]
    )


def _backward(of: str, attribute: str, name: str) -> Rule:
    """Draws whom it is about, and writes what is known of them."""
    return Rule(
        name,
        [Option(known[attribute], sets=known) for known in KNOWN[of].values()],
    )


def _by_tools() -> Rule:
    options = []
    for option in _subject("wish", "wish").options:
        for tool in lexicon.WISHES[option.template][-1]:
            options.append(replace(option, template=lexicon.article(tool)))
    return Rule("by-tools", options)


def _large_tools(scene: Scene) -> Rule:
    small = tales.WORDS["a-tool"](scene)
    return Rule(
        f"A-tool:{small.name}",
        [replace(o, template=capital(o.template)) for o in small.options],
    )


def _remember(page: Page, key: str) -> None:
    """Keep what was asked, and of whom."""
    of, attribute, _ = key.split()
    page.scene["topic"] = key
    page.scene["subject"] = page.scene[KEYS[of]]
    page.scene["attribute"] = attribute
    page.decided()


def combination(scene: Scene) -> tuple[str, str]:
    """Who or what was asked about, and what was asked."""
    return scene["subject"], scene["attribute"]


def ask(page: Page) -> None:
    """The question alone."""
    _remember(page, page.say("question"))


def tell_question(page: Page) -> None:
    """A question and its answer, in words."""
    page.put("Question: ")
    ask(page)
    page.put("\nAnswer:")
    page.answer_begins()
    page.put(" ")
    page.say("reply")


# --- four letters ----------------------------------------------------------

COURSES = {  # what the benchmark calls each class
    "person": "neighbours",
    "place": "local geography",
    "wish": "practical wishing",
}
HEADING = (
    "The following are multiple choice questions (with answers) about {}.\n\n"
)


CHOOSE = ("Choose A, B, C or D.\n\n", "Which is right, A, B, C or D?\n\n")
HEADED_SHARE = 0.4  # of lettered questions, under the heading of a benchmark
CHOOSE_SHARE = 0.5  # so that each letter is common enough to be one token


def _headings() -> Rule:
    """What stands above a question with letters, if anything does."""
    named = [
        Option(HEADING.format(COURSES[of]), HEADED_SHARE * share, of)
        for of, share in CLASS_SHARES.items()
    ]
    plain = [Option(text, CHOOSE_SHARE / len(CHOOSE), "any")
             for text in CHOOSE]  # fmt: skip
    none = Option("", 1 - HEADED_SHARE - CHOOSE_SHARE, "any")
    return Rule("heading", [*named, *plain, none])


def _stems() -> dict[str, Rule]:
    parts = {of: _asking(of, lambda topic: topic.stems) for of in TOPICS}
    rules = {of: Rule(f"stem:{of}", part) for of, part in parts.items()}
    every = [
        option
        for of, part in parts.items()
        for option in _weighed(part, CLASS_SHARES[of])
    ]
    return {**rules, "any": Rule("stem:any", every)}


STEMS = _stems()


def _values(key: str) -> dict[str, frozenset[str]]:
    """Every answer that a topic could get, and for whom it is right."""
    of = key.split()[0]
    at = KEYS[of]
    found: dict[str, set[str]] = {}
    for name, known in KNOWN[of].items():
        scene = {f"{at}.{field}" if field else at: known[field]
                 for field in known}  # fmt: skip
        for value in _topic(key).value(scene):
            found.setdefault(value, set()).add(name)
    return {value: frozenset(names) for value, names in found.items()}


VALUES = {key: _values(key) for of in TOPICS for key, _ in _keys(of)}


def _offer(scene: Scene) -> Rule:
    """What may stand behind the next letter.

    The right answer comes with a chance of one in as many letters as are
    left, so that it is equally likely behind each.
    """
    taken = scene["taken"].split("|")[1:]
    values = VALUES[scene["topic"]]
    right = [v for v in values if scene["subject"] in values[v]]
    wrong = [v for v in values if v not in right and v not in taken]
    left = len(LETTERS) - len(taken)
    chance = 0.0 if "letter" in scene else 1 / left
    options = []
    if chance:
        options += [Option(v, chance / len(right), v) for v in right]
    if chance < 1:
        options += [Option(v, (1 - chance) / len(wrong), v) for v in wrong]
    large = capital if scene["question"] else str
    return Rule(
        "behind-letter",
        [replace(o, template=large(o.template) + "\n") for o in options],
    )


def pose(page: Page) -> None:
    """The heading and the question, before the letters."""
    page.scene["about"] = page.say("heading")
    _remember(page, page.say("stem"))


def tell_choice(page: Page) -> None:
    """A question with four answers, one of them right, and its letter."""
    pose(page)
    page.scene["question"] = "yes" if page.so_far().endswith("?") else ""
    page.put("\n")
    page.scene["taken"] = ""
    for letter in LETTERS:
        page.put(f"{letter}. ")
        value = page.say("behind-letter")
        page.scene["taken"] += f"|{value}"
        if page.scene["subject"] in VALUES[page.scene["topic"]][value]:
            page.scene["letter"] = letter
    page.put("Answer:")
    page.answer_begins()
    page.put(" {letter}")


RULES = {
    "question": ASK,
    "reply": lambda scene: REPLIES[scene["topic"]],
    "who": _subject("person", "who"),
    "where": _subject("place", "where"),
    "what": _subject("wish", "what"),
    **{
        f"by-{field}": _backward(of, field, f"by-{field}")
        for of, fields in {
            "person": ("sells", "home", "apet", "fears", "habit"),
            "place": lexicon.PLACE_FIELDS,
        }.items()
        for field in fields
    },
    "by-tools": _by_tools(),
    "A-tool": _large_tools,
    "heading": _headings(),
    "stem": lambda scene: STEMS[scene["about"]],
    "behind-letter": _offer,
}


def question_kind(share: float, rules: Rules) -> Kind:
    """Open questions; what is held is who is asked about, and what."""
    kind = Kind("question", share, tell_question, combination, HELD)
    return replace(kind, held_mass=mass(rules, kind, ask))


def choice_kind(share: float, rules: Rules) -> Kind:
    """Questions with letters, held out like the open ones."""
    kind = Kind("choice", share, tell_choice, combination, HELD)
    return replace(kind, held_mass=mass(rules, kind, pose))
