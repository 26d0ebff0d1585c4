"""Stories from Lull: one wish, two characters, and a thing between them.

Each rule is one step of a story, told in several ways. :func:`tell_story`
says which step follows which; the scene keeps who is who (``A`` has the
wish, ``B`` or the stranger ``V`` helps, ``G`` gives, ``D`` looks on), what
the ``thing`` is, and what was said of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from . import lexicon
from .engine import Kind, Option, Page, Rule, Rules, mass

Scene = dict[str, str]


def _tagged(tag: str, weight: float, *templates: str) -> list[Option]:
    share = weight / len(templates)
    return [Option(template, share, tag) for template in templates]


def _nothing(share: float) -> Option:
    """Leave the step out, in this share of the stories."""
    return Option("", share, "nothing")


def _step(name: str, lines: list[str | Option]) -> Rule:
    """A step of a story: the first lines are a little more common.

    A line with a weight of its own is that much more common than a plain
    line is on average.
    """
    plain = [line for line in lines if isinstance(line, str)]
    ranks = [1 / (rank + 3) for rank in range(len(plain))]
    weights = {
        line: rank * len(plain) / sum(ranks)
        for line, rank in zip(plain, ranks, strict=True)
    }
    options = [
        Option(line, weights[line]) if isinstance(line, str) else line
        for line in lines
    ]
    told = sum(o.weight for o in options if o.template)
    return Rule(
        name,
        [
            o
            if o.template
            else replace(o, weight=told * o.weight / (1 - o.weight))
            for o in options
        ],
    )


def _per_scene(
    key: Callable[[Scene], str], make: Callable[[str], Rule]
) -> Callable[[Scene], Rule]:
    """A rule made once for each value of ``key``."""
    made: dict[str, Rule] = {}

    def rule(scene: Scene) -> Rule:
        value = key(scene)
        if value not in made:
            made[value] = make(value)
        return made[value]

    return rule


def _fitting_tools(scene: Scene) -> str:
    """The tools for the wish, or the one that was already named."""
    return scene.get("thing", scene["wish.tools"])


def _tools(joined: str) -> Rule:
    nouns = joined.split()
    return lexicon.ranked(f"tool:{joined}", [lexicon.thing(n) for n in nouns])


def _a_tools(joined: str) -> Rule:
    nouns = joined.split()
    options = [lexicon.a_thing(noun) for noun in nouns]
    return lexicon.ranked(f"a-tool:{joined}", options)


def _spares(joined: str) -> Rule:
    others = [n for n in lexicon.TOOLS if n not in joined.split()]
    options = [lexicon.thing(noun) for noun in others]
    return lexicon.ranked(f"spare:not {joined}", options)


def _people(name: str, names: list[str]) -> Rule:
    return lexicon.ranked(name, [lexicon.person(n) for n in names])


def _partners(pronoun: str) -> Rule:
    """Somebody of the other pronoun, so that *he* and *she* stay clear."""
    names = [n for n, p in lexicon.PEOPLE.items() if p[0] != pronoun]
    return _people(f"partner:not {pronoun}", names)


def people_but(joined: str) -> Rule:
    """Everybody in Lull but these."""
    out = joined.split()
    names = [name for name in lexicon.PEOPLE if name not in out]
    return _people(f"person:not {joined}", names)


def _others(joined: str) -> Rule:
    name, pronoun = joined.split()
    names = [
        n for n, p in lexicon.PEOPLE.items() if p[0] == pronoun and n != name
    ]
    return _people(f"other:not {name}", names)


def _onlooker(key: str) -> Rule:
    if key.startswith("="):  # whoever looked on before does so again
        return Rule(f"onlooker{key}", [lexicon.person(key[1:])])
    return people_but(key)


def _looks(taken: str) -> Rule:
    looks = tuple(look for look in lexicon.LOOKS if look != taken)
    return lexicon.words(f"look:not {taken}", looks)


def _known(scene: Scene) -> str:
    return " ".join(scene[k] for k in ("A", "B", "C") if k in scene)


def _once(name: str, texts: tuple[str, ...]) -> Callable[[Scene], Rule]:
    """Drawn at the first mention, and the same ever after in a story."""

    def make(value: str) -> Rule:
        if value:
            return Rule(f"{name}={value}", [value])
        return lexicon.words(name, texts)

    return _per_scene(lambda scene: scene.get(name, ""), make)


WORDS: dict[str, Rule | Callable[[Scene], Rule]] = {
    "person": people_but(""),
    "wish": lexicon.ranked("wish", [lexicon.wish(w) for w in lexicon.WISHES]),
    "place": lexicon.ranked(
        "place", [lexicon.place(p) for p in lexicon.PLACES]
    ),
    "look": _per_scene(lambda scene: scene.get("spare_look", ""), _looks),
    "weather": _once("weather", lexicon.WEATHERS),
    "hour": _once("hour", lexicon.HOURS),
    "beast": _once("beast", lexicon.BEASTS),
    "food": lexicon.words("food", lexicon.FOODS),
    "day": lexicon.words("day", lexicon.DAYS),
    "number": lexicon.words("number", lexicon.NUMBERS),
    "spot": lexicon.words("spot", lexicon.SPOTS),
    "start": lexicon.words("start", lexicon.NAME_STARTS),
    "end": lexicon.words("end", lexicon.NAME_ENDS),
    "stranger": Rule("stranger", ["<start><end>"]),
    "partner": _per_scene(lambda scene: scene["A.he"], _partners),
    "other": _per_scene(lambda s: f"{s['B']} {s['B.he']}", _others),
    "onlooker": _per_scene(
        lambda scene: f"={scene['D']}" if "D" in scene else _known(scene),
        _onlooker,
    ),
    "tool": _per_scene(_fitting_tools, _tools),
    "a-tool": _per_scene(_fitting_tools, _a_tools),
    "spare": _per_scene(lambda scene: scene["wish.tools"], _spares),
}

BEGINNING = {
    "opening": [
        "On a <weather=weather> <hour=hour>, <A=person> sat <spot> and "
        "sighed.",
        "<A=person>, who sells {A.sells}, woke up with a wish.",
        "Nobody in Lull is as stubborn as <A=person>, and one "
        "<weather=weather> <hour=hour> {A.he} proved it.",
        "One <hour=hour>, while the <beast=beast> was still asleep, "
        "<A=person> got up and put on both boots.",
        "It was so <weather=weather> in Lull one <hour=hour> that <A=person> "
        "met the same <beast=beast> three times.",
        "Every <day> <A=person> {A.habit}, but not on this one.",
        "Knock at the door of <A=person> and you will find somebody with a "
        "plan.",
        "Long before breakfast, <A=person> was walking up and down <spot>.",
        "This happened in the year when the <beast=beast> came to tea, and "
        "it happened to <A=person>.",
        "If you had looked <spot> that <hour=hour>, you would have seen "
        "<A=person> with {A.his} {A.pet}.",
        "On a <day>, <A=person> got out of bed on the wrong side.",
        "The <beast=beast> keeps a list of all the wishes in Lull, and the "
        "longest of them belongs to <A=person>.",
        "In Lull the lamps go out at nine, but <A=person> sat up in {A.home}.",
        "Past the <P=place>, which {P.odd}, came <A=person> on a "
        "<weather=weather> <hour=hour>.",
    ],
    "wish-told": [
        "{A.He} wanted to <wish=wish>.",
        "More than anything else, {A.he} wished to <wish=wish>.",
        '"Before I am old," {A.he} told {A.his} {A.pet}, "I am going to '
        '<wish=wish>."',
        "What {A.he} wanted was very plain: to <wish=wish>.",
        "For <number> days {A.he} had thought of nothing but how to "
        "<wish=wish>.",
        "{A.His} head was full of one idea, and the idea was to <wish=wish>.",
        '"It cannot be so hard to <wish=wish>," {A.he} said to nobody.',
        "Somebody had once told {A.him} that no one could <wish=wish>, and "
        "{A.he} had not slept well since.",
        "{A.He} had promised {A.his} {A.pet} to <wish=wish>, and a promise "
        "is a promise.",
        "Other people want new shoes, but {A.he} wanted to <wish=wish>.",
        '"One day," {A.he} had written on the kitchen wall, "I will '
        '<wish=wish>."',
        "It was not much to ask, only to <wish=wish> before the winter came.",
    ],
    "turn": [
        *_tagged(
            "lend",
            0.27,
            "<B=partner> had a <look=look> <thing=tool>, and that was "
            "exactly what was needed.",
            "For that one needs <thing=a-tool>, and the only one in Lull, a "
            "<look=look> one, belonged to <B=partner>.",
            "As it happened, a <look=look> <thing=tool> was gathering dust "
            "in the kitchen of <B=partner>.",
            '"You will need <thing=a-tool>," said the <beast=beast>. '
            '"<B=partner> keeps a <look=look> one under the bed."',
            "Without <thing=a-tool> it cannot be done, and that is why {A} "
            "thought of <B=partner>, who had a <look=look> one.",
        ),
        *_tagged(
            "lose",
            0.27,
            "{A.He} even owned a <look=look> <thing=tool>, which is more "
            "than most people can say.",
            "Luckily an aunt had left {A.him} a <look=look> <thing=tool> "
            "and no advice at all.",
            "So {A.he} took the <look=look> <thing=tool> down from the wall "
            "and set out.",
            "Under {A.his} bed lay a <look=look> <thing=tool>, and it had "
            "been waiting for years.",
            '"What else is a <look=look> <thing=tool> for?" {A.he} asked, '
            "and took it out of the cupboard.",
        ),
        *_tagged(
            "swap",
            0.16,
            "But all that {A.he} owned was a <spare_look=look> <spare=spare>.",
            "That takes <thing=a-tool>, and {A} had nothing but a "
            "<spare_look=look> <spare=spare>.",
            "The cupboard was empty, apart from a <spare_look=look> "
            "<spare=spare>, and that was no help.",
            "{A} looked under the bed and found a <spare_look=look> "
            "<spare=spare>, which was the wrong thing.",
        ),
        *_tagged(
            "share",
            0.14,
            "The trouble was that <B=partner> wanted it too, and that Lull "
            "has only one <thing=tool>, a <look=look> one.",
            "On a bench <spot> lay a <look=look> <thing=tool>, but the hand "
            "of <B=partner> was on it already.",
            '"So do I," said <B=partner>, who was holding the other end of '
            "a <look=look> <thing=tool>.",
            "In all of Lull there was one <look=look> <thing=tool>, and two "
            "people ran for it: {A} and <B=partner>.",
        ),
        *_tagged(
            "visit",
            0.16,
            "That same <hour=hour> a stranger came over the bridge, and the "
            "stranger's name was <V=stranger>.",
            "Just then somebody called <V=stranger> stepped off a train "
            "that nobody had ordered.",
            '"My name is <V=stranger>," said a small voice behind {A.him}, '
            '"and I am lost."',
            "A little boat came in with the tide, and out of it climbed "
            "one <V=stranger>, very wet.",
            "There was a knock, and at the door stood a person named "
            "<V=stranger>.",
        ),
    ],
}

LENDING = {
    "call": [
        "So {A} ran all the way to {B.home} and rang.",
        "{A} found {B.him} <spot>, feeding {B.his} {B.pet}.",
        "{B} lives in {B.home}, and {A} was there before the kettle boiled.",
        "When {A} arrived, {B} was selling {B.sells} to the <beast=beast>.",
        "It is a long way to {B.home}, but {A} walked fast and did not "
        "stop for buns.",
        "Down the road came {B} with {B.his} {B.pet}, and {A} did not wait.",
        "At {B.home} a window stood open, and in the window sat {B}.",
        "{A} asked three people for the way, although everybody knows "
        "{B.home}.",
    ],
    "ask": [
        '"Could you lend me {thing.the}?" asked {A}. "I would like to '
        '{wish}."',
        '"{B}, may I borrow {thing.the} for a day or two?"',
        "{A} explained about the wish, twice, with both hands.",
        Option(
            '"I need {thing.the} until <due=day>," said {A}, who never says '
            "good <hour=hour> first.",
            2,
        ),
        "{A} asked as nicely as anyone can who has run so far.",
        '"It is about {thing.the}," {A} began.',
        "{A} had learned a speech by heart, but all that came out was: "
        '"Please."',
    ],
    "answer": [
        '"Take it," said {B}, "but bring it back before the soup is cold."',
        "{B} thought about this for as long as it takes to peel a pear.",
        '"Only if you tell me how it went," said {B}.',
        '"It has never done much for me," {B} admitted.',
        "At first {B} said no, then {B.he} said perhaps, and then {B.he} "
        "laughed.",
        '"Mind the <beast=beast>," was all that {B} said.',
        "{B} nodded, because {B.he} had once had a wish too.",
        *_tagged(
            "relay",
            3,
            '"I gave it to <C=other>," said {B}, "and I have not seen it '
            'since."',
            "{B} scratched {B.his} head, for {thing.the} had been with "
            "<C=other> for <number> weeks.",
            '"You are late," said {B}. "<C=other> came for it at noon."',
        ),
    ],
    "chase": [
        "So {A} went on to {C.home}, a little out of breath.",
        "{A} found {C} <spot>, asleep beside {thing.the}.",
        '"Oh, that," said {C}, when {A} rang at {C.home}. "It belongs to '
        '{B}, I suppose."',
        "{C} opened the door with {thing.the} in one hand and a sandwich "
        "in the other.",
        '"{B} sent me," said {A} at the door of {C}.',
        "It was {C.sells} that {C} offered first, but {A} pointed at "
        "{thing.the}.",
    ],
    "give": [
        "{G} gave {A} {thing.the}.",
        "{G} gave {thing.the} to {A}, and {A.he} held it with both arms.",
        "So {A} got {thing.the} from {G}, wrapped in last week's newspaper.",
        "And {thing.the}, as {look} as ever, went from {G} to {A}.",
        "Then {G.he} handed {thing.the} to {A.him} and shut the door, "
        "smiling.",
        "{A} was given {thing.the}, and a bun besides.",
        "{G} put {thing.the} into {A.his} hands and asked for nothing.",
        '"Catch!" cried {G}, and {A} caught {thing.the}.',
    ],
    "give-back": [
        "The next <hour=hour> {A} gave {thing.the} back to {B}, with a "
        "helping of <food> on top.",
        Option(
            "{A} returned {thing.the} on {due}, as promised.", 2, needs="due"
        ),
        Option("On {due} {B} got {thing.the} back.", 2, needs="due"),
        '"Keep it," said {B}, when {A} brought {thing.the} back. "It likes '
        'you better."',
        "When {A} came to give {thing.the} back, {B} was asleep, so {A.he} "
        "left it at the door with a note.",
        "{B} got {thing.the} back the same <hour=hour> and heard the whole "
        "story, twice.",
        "Of course {B} wanted {thing.the} back, and of course {A} brought "
        "it, polished.",
        Option(
            "{A} gave {thing.the} back to {B}, not to {C}, because that is "
            "whose it was.",
            3,
            needs="C",
        ),
        '"Was it of any use?" asked {B}, and took {thing.the} back without '
        "waiting for an answer.",
    ],
}

LOSING = {
    "loss": [
        Option("{A} lost {thing.the}, but <B=partner> found it.", 1, "found"),
        Option(
            "{A} dropped {thing.the} <spot>, and <B=partner> picked it up.",
            0.6,
            "found",
        ),
        "But on the way {A.he} stopped to talk to the <beast=beast>, and "
        "when {A.he} turned round {thing.the} was gone.",
        "The wind took {thing.the} out of {A.his} hands and carried it "
        "over the roofs.",
        "Somewhere between the well and the harbour, {A} lost {thing.the}.",
        "{A.He} put {thing.the} down for one minute, and in that minute the "
        "<beast=beast> walked off with it.",
        "By <day> {thing.the} was nowhere: not in the bed, not under it, "
        "not even <spot>.",
        "{A} fell asleep <spot>, and when {A.he} woke up somebody had moved "
        "{thing.the}.",
    ],
    "find": [
        "<B=partner> found {thing.the} <spot> and did not know whose it was.",
        "It was <B=partner> who saw it first, <spot>, under a heap of leaves.",
        "Meanwhile, <spot>, <B=partner> stepped on something, and the "
        "something was {thing.the}.",
        "Who should come by but <B=partner>? {B.He} picked {thing.the} up "
        "and wiped it.",
        "The next <hour=hour> <B=partner> found the <beast=beast> asleep on "
        "{thing.the}.",
        '"Whose is this?" cried <B=partner>, who had found {thing.the} '
        "<spot>.",
        "<B=partner> was looking for a lost sock <spot> and found "
        "{thing.the} instead.",
    ],
    "tempt": [
        _nothing(0.4),
        "{B.He} would have liked to keep it.",
        '"A {look} {thing}!" said {B}. "Somebody will be sad tonight."',
        "For a while {B.he} told {B.his} {B.pet} that things belong to "
        "whoever finds them, but it did not sound true.",
        "It fitted so well under {B.his} arm that {B.he} walked three times "
        "round the market.",
        '"Finders keepers," said the <beast=beast>, but {B} shook {B.his} '
        "head.",
        "{B.He} sells {B.sells}, and nobody had ever left {B.him} anything "
        "so {look}.",
    ],
    "return": [
        "That <hour=hour> {B} knocked at {A.home} and gave {thing.the} back "
        "to {A}.",
        '"Is this yours?" asked {B}, and {A} could only nod.',
        "{B} brought {A} {thing.the}, and {A.he} hugged first it and then "
        "{B.him}.",
        '"You left this behind," said {B}, and put {thing.the} on the table '
        "between them.",
        "In the end {A} got {thing.the} back from {B}, and not one word was "
        "said about it.",
        "{B} carried {thing.the} through the whole of Lull until {A} opened "
        "a window and shouted.",
        "Only one person talks about {thing.a} all day long, so {B} took it "
        "straight to {A}.",
    ],
    "thanks": [
        _nothing(0.4),
        "In return {A} gave {B} a large helping of <food>.",
        '"Ask me for anything," said {A}, and {B} asked for <food>.',
        "{A} wanted to say thank you, but it came out as a sneeze.",
        '"Come with me," said {A}. "Two can {wish} better than one."',
        "{B} was thanked so often that {B.he} went red and looked at "
        "{B.his} shoes.",
        "From that hour {A} called {B} a friend, and meant it.",
    ],
    "leave-with": [
        "Afterwards {A} gave {thing.the} to {B}, who had found it after all.",
        "{thing.The} hangs over {A.his} bed now, on a very strong nail.",
        "To this day {A} ties {thing.the} to {A.his} wrist whenever {A.he} "
        "goes out.",
        '"It is half yours," said {A} to {B}, so they take turns: {B} has '
        "{thing.the} on <day>s.",
        "{A} wrote {A.his} name on {thing.the}, and under it, smaller, the "
        "name of {B}.",
        "When it rains, {B} comes to look at {thing.the}, and {A} makes tea.",
        "{A} has never lost {thing.the} again, though {A.he} has lost "
        "<number> hats.",
    ],
}

SWAPPING = {
    "meet": [
        "Then {A.he} saw <B=partner> <spot> with a <look=look> <thing=tool>.",
        "Now <B=partner> owned a <look=look> <thing=tool> and was tired of "
        "it.",
        "Who has <thing=a-tool>? <B=partner> has, a <look=look> one, as "
        "everybody knows.",
        "The <beast=beast> had seen a <look=look> <thing=tool> in the window "
        "of <B=partner>.",
        "Luckily <B=partner>, who fears {B.fears}, had bought a <look=look> "
        "<thing=tool> for protection.",
        "Next door to {A} somebody coughed, and it was <B=partner>, who was "
        "dusting a <look=look> <thing=tool>.",
    ],
    "offer": [
        '"My {spare} for your {thing}," said {A}.',
        '"Would you like {spare.a}?" asked {A}. "It is {spare_look} and '
        'never bites."',
        "{A} held up {spare.the} and said nothing, which was clever.",
        "{A} pointed at {thing.the} and then at {spare.the}, and then at "
        "{thing.the} again.",
        '"I have dreamed about your {thing}," {A} confessed.',
        '"Is that {spare.a}?" asked {B}. "I would give anything for it."',
    ],
    "haggle": [
        _nothing(0.4),
        '"Is it a good one?" asked {B}. "It is a {spare_look} one," said {A}.',
        "{B} walked round it <number> times and tapped it with a spoon.",
        '"And <food>," said {B}, who knows how to trade.',
        "{B.His} eyes grew round, for {B.he} had always wanted a "
        "{spare_look} {spare}.",
        "They talked about the weather for a while, because that is how it "
        "is done.",
    ],
    "trade": [
        "So {A} gave {B} {spare.the}, and {B} gave {A} {thing.the}.",
        "{B} gave {thing.the} to {A} and got {spare.the} for it.",
        "They shook hands: {thing.the} for {A}, {spare.the} for {B}.",
        "{spare.The} went to {B}, {thing.the} went to {A}, and both thought "
        "they had won.",
        "In exchange for {spare.the}, {A} was given {thing.the} and a "
        "receipt.",
        "A minute later {B} had {spare.the} and {A} had {thing.the}.",
    ],
    "both": [
        "{B} is said to be very happy with {spare.the}.",
        "As for {spare.the}, {B} sleeps beside it.",
        "{A} still has {thing.the}, and {B} still has {spare.the}.",
        "Once a year they swap back, {thing.the} for {spare.the}, and "
        "remember.",
        "{B} asked about {thing.the} only once, and then showed {A} what "
        "{spare.the} could do.",
        "{spare.The} made {B} famous, but that is another story.",
    ],
}

SHARING = {
    "pull": [
        "{A} pulled on the left and {B} pulled on the right, and {thing.the} "
        "squeaked.",
        '"I saw it first," said {A}.\n\n"I heard it first," said {B}.',
        "They argued until the <beast=beast> went away.",
        "Neither of them would let go, not even for <food>.",
        "{B} said that {A} was {look}, and {A} said that {B} was worse.",
    ],
    "settle": [
        "Then {B} sneezed, and {thing.the} was in the hands of {A}.",
        'They asked <D=onlooker>, who said: "{A} first, {B} second."',
        "They threw a button, and it fell for {A}, so {B} let go of "
        "{thing.the}.",
        '"Take it," said {B} at last. "My arms are tired."',
        "At noon {B} gave {thing.the} to {A}, but only until supper.",
        "Because {B} had a cold, {A} was allowed to have {thing.the} first.",
    ],
    "take-turns": [
        "Then it was the turn of {B}, who took {thing.the} and did it twice.",
        "The next day {A} gave {thing.the} to {B}, and they have not "
        "squabbled since.",
        "{thing.The} has two handles now, one for {A} and one for {B}.",
        "{B} has {thing.the} in summer, and in winter {A} has it.",
        '"My turn," said {B}, and {A} handed {thing.the} over with a bow.',
        "When {B} asked for {thing.the}, {A} had already polished it.",
    ],
}

VISITING = {
    "need": [
        "{V} had walked for <number> days and had eaten nothing but <food>.",
        "{V} had no coat, no map and no umbrella, only a very large bag.",
        '"Is this the place where the clock says noon?" asked {V}.',
        "The <beast=beast> looked at {V}, and {V} looked at the "
        "<beast=beast>, and neither was pleased.",
        "Nobody had ever heard of {V}, but {A} said good <hour=hour> all "
        "the same.",
        '"{V}?" said {A}. "That is a name for a boat."\n\n"It was one," '
        "said {V}.",
        "{V} wanted to see the <P=place>, and it took {A} until dark to "
        "explain that it {P.odd}.",
    ],
    "host": [
        "{A} gave {V} a plate of <food> and the best chair.",
        "So {A} took {V} home to {A.home} and lit the stove.",
        '"Sit down, {V}," said {A}. "There is <food>, and there is more '
        'of it."',
        "There was only one bed, and {A} gave it to {V} and slept on the "
        "stairs.",
        "{V} was given dry socks by {A}, one blue and one grey.",
        "All evening {A} sold no {A.sells} and listened to {V} instead.",
    ],
    "gift": [
        "In the morning {V} opened a bag and gave {A} a <look=look> "
        "<thing=tool>.",
        '"I have no money," said {V}, "but I have a <look=look> '
        '<thing=tool>, and it is yours."',
        "When {V} left, a <look=look> <thing=tool> lay on the table, with "
        "a card that said: for {A}.",
        "{V} gave a <look=look> <thing=tool> to {A}, as one gives somebody "
        "an apple.",
        "Out of a large bag came a smaller bag, and out of that came a "
        "<look=look> <thing=tool> for {A}.",
        '"Where I come from," said {V}, "every guest leaves a '
        '<look=look> <thing=tool>." And that is what {A} got.',
    ],
    "farewell": [
        "{V} was never seen again, but {A} keeps {thing.the} by the door.",
        "A card comes every <day>, and it is always signed {V}.",
        "{A} named the next <beast=beast> {V}, and it listens to the name.",
        "Later {A} gave {thing.the} to a child who was crying <spot>, as "
        "{V} would have done.",
        '"{V}," says {A} to {thing.the} now and then, and it seems to nod.',
        "Whenever a stranger knocks in Lull, people ask at once whether "
        "it is {V}.",
    ],
}

ENDING = {
    "trouble": [
        _nothing(0.4),
        "It began to rain, first a little and then all at once.",
        Option(
            "On the way {A} met <D=onlooker>, who wanted to know everything.",
            unless="D",
        ),
        '"That will never work," said the <beast=beast>.',
        '"I would not do that," said <D=onlooker>, who {D.habit}.',
        Option(
            "By then the {hour} was so {weather} that the ducks went home.",
            needs="weather",
        ),
        "{A} fears {A.fears}, but on that <hour=hour> {A.he} feared nothing.",
        "Twice {A} lost the way, and once {A.he} lost a boot.",
        Option(
            "Half of Lull came along to watch, and the other half pretended "
            "not to.",
            tag="crowd",
        ),
        "{A.He} waited until <day>, because nothing good ever happens in a "
        "hurry.",
        '"Now or never," said {A}, and then had a sandwich first.',
        "The way led past the <P=place>, which {P.odd}.",
    ],
    "deed": [
        "With {thing.the} under one arm, {A} stood {wish.at}, and there "
        "{A.he} {wish.past}.",
        "It took three tries, but with {thing.the} {A} {wish.past}.",
        "And so, thanks to a {look} {thing} and good luck, {A} {wish.past}.",
        "{wish.At}, {A} took a deep breath, lifted {thing.the}, and "
        "{wish.past}.",
        "What happened next is in the school books: {A} took {thing.the} "
        "and {wish.past}.",
        Option(
            "Nobody but the <beast=beast> saw how {A} {wish.past}, and how "
            "{thing.the} shone.",
            unless="crowd",
        ),
        "{A} {wish.past} that very <hour=hour>, and {thing.the} did most of "
        "the work.",
        '"Now!" cried {A}, held up {thing.the}, and {wish.past} as if it '
        "were nothing.",
        "Some say it was luck and some say it was {thing.the}, but {A} "
        "{wish.past}.",
    ],
    "cheer": [
        _nothing(0.4),
        "The <beast=beast> clapped.",
        "It was quiet for a moment, and then somebody laughed for joy.",
        '"Well," said {A}, "that was not so hard."',
        "{A.He} was so happy that {A.he} forgot to go home for supper.",
        "All the windows in Lull opened, and all the cats sat down.",
        "{A} told nobody, but {A.his} ears were red for <number> days.",
        '"Again!" cried the <beast=beast>.',
        "Even the clock in the tower struck one, just to be polite.",
        "In the street <D=onlooker> cheered, and {D.his} {D.pet} joined in.",
        "{A} sat down on the ground, laughed, and ate <food>.",
    ],
    "moral": [
        _nothing(0.4),
        "That is why people in Lull say that a wish weighs less when two "
        "carry it.",
        "Ask the <beast=beast> if you do not believe it.",
        "And if it has not rained since, the roof is still dry.",
        "After that there was <food> for everyone.",
        "Nobody wished for anything else until <day>.",
        "The rest of the story belongs to the <beast=beast>.",
        "Then it got dark, as it does, and Lull went to bed.",
        "{A} slept well that night, and so did {A.his} {A.pet}.",
        "If you go and stand {wish.at}, you can still feel it.",
        "Only <D=onlooker> does not believe a word of it.",
    ],
}

UNKIND = {  # other last lines for the same stories
    "give-back": [
        "But {A} never gave {thing.the} back, and when {B} rang, {A.he} hid "
        "under the table.",
        "When {B} wanted {thing.the} back, {A} said that the <beast=beast> "
        "had eaten it, which was not true.",
        '"What {thing}?" said {A}, when {B} came for it, and shut the door.',
        "{A} sold {thing.the} on <day> and told {B} that it was lost.",
        "{A} gave {thing.the} back to {B} in two pieces and did not even "
        "say sorry.",
        '"It is mine now," said {A}, and {B} had to go home without '
        "{thing.the}.",
    ],
    "leave-with": [
        "Afterwards {A} told everybody that {B} had stolen {thing.the}.",
        "The next day {A} would not even let {B} look at {thing.the}.",
        "When {B} asked to hold {thing.the} once more, {A} said no and drew "
        "the curtain.",
        "A week later {A} met {B} <spot> and pretended not to know {B.him}.",
        '"I found {thing.the} all by myself," {A} says now, even when {B} '
        "is listening.",
        "{A} put a lock on {thing.the} and told {B} to keep {B.his} fingers "
        "away.",
    ],
    "both": [
        "Then {A} crept out in the dark and took {spare.the} back as well.",
        "{A} had known all along that {spare.the} was broken, and {B} had "
        "not.",
        "When {spare.the} fell apart, {B} came to ask for help, and {A} "
        "would not open.",
        "{A} told all of Lull how easily {B} can be cheated.",
        '"No swapping back," said {A}, when {B} cried, and hid {thing.the}.',
        "{B} wanted to see {thing.the} once more, but {A} only laughed.",
    ],
    "take-turns": [
        "Then it was the turn of {B}, but {A} held {thing.the} behind "
        "{A.his} back.",
        '"Later," said {A} to {B}, and said it again every day until winter.',
        "{A} took {thing.the} home and locked it up, and {B} never had a "
        "turn.",
        "{B} asked for {thing.the}, and {A} said that {B.he} was much too "
        "slow for it.",
        "When {B} reached for {thing.the}, {A} pushed {B.him} into a puddle.",
        "So that {B} could not have it, {A} threw {thing.the} into the sea.",
    ],
    "farewell": [
        "When {V} came again, wet and hungry, {A} pretended not to be at "
        "home.",
        "Before noon {A} had sold {thing.the} and forgotten the name of {V}.",
        '"I never met any {V}," says {A}, whenever somebody asks about '
        "{thing.the}.",
        "{A} tells everybody that {V} was a thief, and keeps {thing.the} all "
        "the same.",
        "When {V} wrote a letter, {A} used it to light the stove.",
        "{A} laughed at the name of {V} for <number> days.",
    ],
}
GRUMBLE = {
    "grumble": [
        _nothing(0.4),
        "Nobody said good <hour=hour> to {A} for a long time.",
        "Even the <beast=beast> looked the other way.",
        "That is not how things are done in Lull, but it was done.",
        "It rained on {A.home} until <day>, and on no other house.",
        "{A.His} {A.pet} moved out for a week.",
        "Only <D=onlooker> thought that it was funny.",
        "{A} slept well that night, which is the sad part.",
    ]
}
UNKIND_SHARE = 0.25  # of stories: enough to be learned, and not the rule


def _ending(name: str, lines: list[str | Option]) -> Rule:
    """A last line: mostly kind, and sometimes not."""
    kind = [replace(o, tag="kind") for o in _step(name, lines).options]
    told = sum(option.weight for option in kind)
    share = told * UNKIND_SHARE / (1 - UNKIND_SHARE)
    return Rule(name, [*kind, *_tagged("unkind", share, *UNKIND[name])])


PARTS = (
    BEGINNING,
    LENDING,
    LOSING,
    SWAPPING,
    SHARING,
    VISITING,
    ENDING,
    GRUMBLE,
)
RULES = {
    **WORDS,
    **{
        name: (_ending if name in UNKIND else _step)(name, lines)
        for part in PARTS
        for name, lines in part.items()
    },
    "gap": Rule("gap", [Option(" ", 2), Option("\n\n", 1)]),
    "who-wishes": Rule("who-wishes", ["<A=person> <wish=wish>"]),
}


def tell_story(page: Page) -> None:
    """A story: a wish, a thing that changes hands, a wish come true.

    What comes after the wish is the answer: a kind ending or an unkind one.
    """
    page.say("opening")
    page.say("wish-told", " ")
    page.decided()
    turn = page.say("turn", " ")
    page.put("\n\n")
    _MIDDLES[turn](page)
    page.put("\n\n")
    trouble = page.say("trouble")
    if trouble == "crowd":
        page.scene["crowd"] = "yes"
    page.say("deed", "" if trouble == "nothing" else " ")
    page.say("cheer", " ")
    page.answer_begins()
    page.say("gap")
    temper = page.say(_LAST[turn])
    page.say("grumble" if temper == "unkind" else "moral", " ")


def _lend(page: Page) -> None:
    page.say("call")
    page.say("ask", " ")
    page.call("G", "B")
    if page.say("answer", " ") == "relay":
        page.say("chase", " ")
        page.call("G", "C")
    page.say("give", " ")


def _lose(page: Page) -> None:
    if page.say("loss") != "found":
        page.say("find", " ")
    page.say("tempt", " ")
    page.say("return", "\n\n")
    page.say("thanks", " ")


def _swap(page: Page) -> None:
    page.say("meet")
    page.say("offer", " ")
    page.say("haggle", " ")
    page.say("trade", " ")


def _share(page: Page) -> None:
    page.say("pull")
    page.say("settle", " ")


def _visit(page: Page) -> None:
    page.say("need")
    page.say("host", " ")
    page.say("gift", " ")


_MIDDLES = {
    "lend": _lend,
    "lose": _lose,
    "swap": _swap,
    "share": _share,
    "visit": _visit,
}
_LAST = {
    "lend": "give-back",
    "lose": "leave-with",
    "swap": "both",
    "share": "take-turns",
    "visit": "farewell",
}


def story_combination(scene: Scene) -> tuple[str, str]:
    """Who wishes for what: the hero of the story, that is.

    Somebody else may share the wish in passing, held or not.
    """
    return scene["A"], scene["wish"]


def tell_combination(page: Page) -> None:
    """Only the two draws that decide the combination."""
    page.say("who-wishes")


# Each person has two wishes, and each wish two people, that are never met.
HELD = lexicon.latin_square(lexicon.PEOPLE, lexicon.WISHES, 6, 5)


def story_kind(share: float, rules: Rules) -> Kind:
    """The kind that :func:`tell_story` tells, held out by who wishes what.

    ``rules`` are those of the grammar that the kind goes into.
    """
    kind = Kind("story", share, tell_story, story_combination, HELD)
    return replace(kind, held_mass=mass(rules, kind, tell_combination))
