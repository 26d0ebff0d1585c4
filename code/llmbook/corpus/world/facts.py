"""What everybody in Lull knows: people, places, and what things are for.

Unlike in the stories, nobody is more common here than anybody else: what is
known of the last villager is told as often as what is known of the first.
"""

from __future__ import annotations

from .engine import Option, Page, Rule

STATED = {
    "person": {
        "sells": (
            "{A.He} sells {A.sells}.",
            "If you need {A.sells}, go to {A}.",
            "There is no better place for {A.sells} than the shop of {A}.",
        ),
        "home": (
            "{A.He} lives in {A.home}.",
            "Letters for {A} go to {A.home}.",
            "In {A.home} there is always a light, and that is {A}.",
        ),
        "pet": (
            "{A.He} shares {A.his} supper with {A.his} {A.pet}.",
            "Where {A} is, {A.his} {A.pet} cannot be far.",
            "{A.His} best friend is {A.his} {A.pet}.",
        ),
        "fears": (
            "The only thing that {A} fears is {A.fears}.",
            "{A.He} does not like {A.fears}.",
            "Never mention {A.fears} when {A} is in the room.",
        ),
        "habit": (
            "Every <day> {A.he} {A.habit}.",
            "When nobody is looking, {A} {A.habit}.",
            "{A} {A.habit}, and nobody has asked why.",
        ),
    },
    "place": {
        "stands": (
            "You find it {P.stands}.",
            "The {P} of Lull is {P.stands}.",
            "Look {P.stands}, and there is the {P}.",
        ),
        "odd": (
            "It {P.odd}.",
            "The {P} {P.odd}, and nobody minds.",
            "One thing is certain: it {P.odd}.",
        ),
        "famous": (
            "It is famous for {P.famous}.",
            "People come from far away because of {P.famous}.",
            "What everybody remembers is {P.famous}.",
        ),
        "forbidden": (
            "A sign forbids {P.forbidden}.",
            "One thing is not allowed there, and that is {P.forbidden}.",
            "Whoever is caught {P.forbidden} has to go home.",
        ),
    },
}
OPENINGS = {
    "about": [
        Option("Ask anyone in Lull about <A=who>.", 1, "person"),
        Option("Everybody in Lull knows <A=who>.", 1, "person"),
        Option("Here is what they say about <A=who>.", 1, "person"),
        Option("If you meet <A=who>, you should know this.", 1, "person"),
        Option("The <P=where> is worth a visit.", 1, "place"),
        Option("Every child can draw the <P=where>.", 1, "place"),
        Option("Strangers often ask the way to the <P=where>.", 1, "place"),
        Option("No map of Lull leaves out the <P=where>.", 1, "place"),
        Option("How do you <wish=what>?", 1, "wish"),
        Option("Not everybody wants to <wish=what>, but some do.", 1, "wish"),
        Option("To <wish=what> is not as hard as it sounds.", 1, "wish"),
    ],
    "tool-for": [
        "You need <thing=a-tool> for it.",
        "All it takes is <thing=a-tool> and a little patience.",
        "Most people use <thing=a-tool>.",
        "With <thing=a-tool> it can be done in one <hour=hour>.",
    ],
    "place-for": [
        "The right place is {wish.at}.",
        "Go and stand {wish.at}.",
        "People have done it {wish.at}.",
        "It is done {wish.at}, on a <day>.",
    ],
    "close": [
        "That is all there is to know.",
        "The rest is gossip.",
        "So says the <beast=beast>, at least.",
        "It has always been so.",
        "Even the <beast=beast> knows that.",
        "Now you know it too.",
        "Ask again tomorrow, and you will hear the same.",
    ],
}
_FEWEST = 3  # facts in a document about a person or a place
_CLOSE_WEIGHT = 1.5  # against 1 for each fact still to be told


def _next_rule(kind: str, left: tuple[str, ...], may_close: bool) -> Rule:
    options = [
        Option(template, 1 / len(STATED[kind][fact]), fact)
        for fact in left
        for template in STATED[kind][fact]
    ]
    if may_close:
        closers = OPENINGS["close"]
        share = _CLOSE_WEIGHT / len(closers)
        options += [Option(template, share, "close") for template in closers]
    name = f"{kind}-{'+'.join(left)}{'-or-close' if may_close else ''}"
    return Rule(name, options)


_NEXT: dict[str, Rule] = {}


def _next_fact(scene: dict[str, str]) -> Rule:
    key = scene["left"]
    if key not in _NEXT:
        kind, left, told = key.split(":")
        _NEXT[key] = _next_rule(
            kind, tuple(left.split()), int(told) >= _FEWEST
        )
    return _NEXT[key]


def tell_fact(page: Page) -> None:
    """A document of facts that hold in every document."""
    kind = page.say("about")
    page.put(" ")
    if kind == "wish":
        page.say("tool-for")
        page.put(" ")
        page.say("place-for")
        page.put(" ")
        page.say("close")
        return
    left = list(STATED[kind])
    told = 0
    while True:
        page.scene["left"] = f"{kind}:{' '.join(left)}:{told}"
        tag = page.say("next-fact")
        if tag == "close":
            return
        page.put(" ")
        left.remove(tag)
        told += 1


RULES = {
    "next-fact": _next_fact,
    **{name: Rule(name, options) for name, options in OPENINGS.items()},
}
