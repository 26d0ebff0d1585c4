"""Stories from Lull: one wish, two characters, and a thing between them.

Each rule is one step of a story, told in several ways. :func:`tell_story`
says which step follows which; the scene keeps who is who (``A`` has the
wish, ``B`` or the stranger ``V`` helps), what the ``thing`` is, and in
whose hands it lies at the end.
"""

from __future__ import annotations

from . import lexicon
from .engine import Option, Page, Rule

_TOOLS = {
    " ".join(tools): Rule(
        f"tool-{tools[0]}", [lexicon.thing(t) for t in tools]
    )
    for _, _, tools in lexicon.WISHES.values()
}
_ALL_TOOLS = [
    tool for _, _, tools in lexicon.WISHES.values() for tool in tools
]
_SPARES = {
    joined: Rule(
        f"spare-{joined}",
        [lexicon.thing(t) for t in _ALL_TOOLS if t not in joined.split()],
    )
    for joined in _TOOLS
}
_PARTNERS = {
    "she": Rule(
        "partner-she",
        [lexicon.person(n) for n, p in lexicon.PEOPLE.items() if p[0] == "he"],
    ),
    "he": Rule(
        "partner-he",
        [
            lexicon.person(n)
            for n, p in lexicon.PEOPLE.items()
            if p[0] == "she"
        ],
    ),
}


def _tagged(tag: str, weight: float, *templates: str) -> list[Option]:
    share = weight / len(templates)
    return [Option(template, share, tag) for template in templates]


WORDS = {
    "person": Rule("person", [lexicon.person(n) for n in lexicon.PEOPLE]),
    "wish": Rule("wish", [lexicon.wish(w) for w in lexicon.WISHES]),
    "look": lexicon.words("look", lexicon.LOOKS),
    "weather": lexicon.words("weather", lexicon.WEATHERS),
    "hour": lexicon.words("hour", lexicon.HOURS),
    "day": lexicon.words("day", lexicon.DAYS),
    "number": lexicon.words("number", lexicon.NUMBERS),
    "beast": lexicon.words("beast", lexicon.BEASTS),
    "food": lexicon.words("food", lexicon.FOODS),
    "spot": lexicon.words("spot", lexicon.SPOTS),
    "start": lexicon.words("start", lexicon.NAME_STARTS),
    "end": lexicon.words("end", lexicon.NAME_ENDS),
    "stranger": Rule("stranger", ["<start><end>"]),
    "partner": lambda scene: _PARTNERS[scene["A.he"]],
    "tool": lambda scene: _TOOLS[scene["wish.tools"]],
    "spare": lambda scene: _SPARES[scene["wish.tools"]],
}

BEGINNING = {
    "opening": [
        "On a <weather> <hour>, <A=person> sat <spot> and sighed.",
        "<A=person>, who sells {A.sells}, woke up with a wish.",
        "Nobody in Lull is as stubborn as <A=person>, and one <weather> "
        "<hour> {A.he} proved it.",
        "One <hour>, while the <beast> was still asleep, <A=person> got up "
        "and put on both boots.",
        "It was so <weather> in Lull one <hour> that <A=person> met the same "
        "<beast> three times.",
        "Every <day> <A=person> {A.habit}, but not on this one.",
        "Knock at the door of <A=person> and you will find somebody with a "
        "plan.",
        "Long before breakfast, <A=person> was walking up and down <spot>.",
        "This happened in the year when the <beast> came to tea, and it "
        "happened to <A=person>.",
        "If you had looked <spot> that <hour>, you would have seen "
        "<A=person> with {A.pet}.",
    ],
    "wish-told": [
        "{A.He} wanted to <wish=wish>.",
        "More than anything else, {A.he} wished to <wish=wish>.",
        '"Before I am old," {A.he} told {A.pet}, "I am going to <wish=wish>."',
        "What {A.he} wanted was very plain: to <wish=wish>.",
        "For <number> days {A.he} had thought of nothing but how to "
        "<wish=wish>.",
        "{A.His} head was full of one idea, and the idea was to <wish=wish>.",
        '"It cannot be so hard to <wish=wish>," {A.he} said to nobody.',
        "Somebody had once told {A.him} that no one could <wish=wish>, and "
        "{A.he} had not slept well since.",
        "{A.He} had promised {A.pet} to <wish=wish>, and a promise is a "
        "promise.",
    ],
    "turn": [
        *_tagged(
            "lend",
            0.3,
            "<B=partner> had a <look=look> <thing=tool>, and that was "
            "exactly what was needed.",
            "For that one needs a <thing=tool>, and the only one in Lull, a "
            "<look=look> one, belonged to <B=partner>.",
            "As it happened, a <look=look> <thing=tool> was gathering dust "
            "in the kitchen of <B=partner>.",
            '"You will need a <thing=tool>," said the <beast>. "<B=partner> '
            'keeps a <look=look> one under the bed."',
        ),
        *_tagged(
            "lose",
            0.3,
            "{A.He} even owned a <look=look> <thing=tool>, which is more "
            "than most people can say.",
            "Luckily an aunt had left {A.him} a <look=look> <thing=tool> "
            "and no advice at all.",
            "So {A.he} took the <look=look> <thing=tool> down from the wall "
            "and set out.",
            "Under {A.his} bed lay a <look=look> <thing=tool>, and it had "
            "been waiting for years.",
        ),
        *_tagged(
            "swap",
            0.2,
            "But all that {A.he} owned was a <spare_look=look> <spare=spare>.",
            "That takes a <thing=tool>, and {A} had nothing but a "
            "<spare_look=look> <spare=spare>.",
            "The cupboard was empty, apart from a <spare_look=look> "
            "<spare=spare>, and that was no help.",
        ),
        *_tagged(
            "visit",
            0.2,
            "That same <hour> a stranger came over the bridge, and the "
            "stranger's name was <V=stranger>.",
            "Just then somebody called <V=stranger> stepped off a train "
            "that nobody had ordered.",
            '"My name is <V=stranger>," said a small voice behind {A.him}, '
            '"and I am lost."',
            "A little boat came in with the tide, and out of it climbed "
            "one <V=stranger>, very wet.",
        ),
    ],
}

LENDING = {
    "call": [
        "So {A} ran all the way to {B.home} and rang.",
        "{A} found {B.him} <spot>, feeding {B.pet}.",
        "{B} lives in {B.home}, and {A} was there before the kettle boiled.",
        "When {A} arrived, {B} was selling {B.sells} to the <beast>.",
        "It is a long way to {B.home}, but {A} walked fast and did not "
        "stop for buns.",
        "Down the road came {B} with {B.pet}, and {A} did not wait.",
    ],
    "ask": [
        '"Could you lend me {thing.the}?" asked {A}. "I would like to '
        '{wish}."',
        '"{B}, may I borrow {thing.the} for a day or two?"',
        "{A} explained about the wish, twice, with both hands.",
        '"I need {thing.the} until <day>," said {A}, who never says good '
        "morning first.",
        "{A} asked as nicely as anyone can who has run so far.",
        '"It is about {thing.the}," {A} began.',
    ],
    "answer": [
        '"Take it," said {B}, "but bring it back before the soup is cold."',
        "{B} thought about this for as long as it takes to peel a pear.",
        '"Only if you tell me how it went," said {B}.',
        '"It has never done much for me," {B} admitted.',
        "At first {B} said no, then {B.he} said perhaps, and then {B.he} "
        "laughed.",
        '"Mind the <beast>," was all that {B} said.',
        "{B} nodded, because {B.he} had once had a wish too.",
    ],
    "give": [
        "{B} gave {A} {thing.the}.",
        "{B} gave {thing.the} to {A}, and {A.he} held it with both arms.",
        "So {A} got {thing.the} from {B}, wrapped in last week's newspaper.",
        "And {thing.the}, which was {look} all over, went from {B} to {A}.",
        "Then {B.he} handed {thing.the} to {A.him} and shut the door, "
        "smiling.",
        "{A} was given {thing.the}, and a bun besides.",
        "{B} put {thing.the} into {A.his} hands and asked for nothing.",
    ],
    "give-back": [
        "The next <hour> {A} gave {thing.the} back to {B}, with a jar of "
        "<food> on top.",
        "{A} returned {thing.the} on <day>, as promised.",
        '"Keep it," said {B}, when {A} brought {thing.the} back. "It likes '
        'you better."',
        "When {A} came to give {thing.the} back, {B} was asleep, so {A.he} "
        "left it at the door with a note.",
        "{B} got {thing.the} back the same <hour> and heard the whole "
        "story, twice.",
        "Of course {B} wanted {thing.the} back, and of course {A} brought it, "
        "polished.",
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
        "But on the way {A.he} stopped to talk to the <beast>, and when "
        "{A.he} turned round {thing.the} was gone.",
        "The wind took {thing.the} out of {A.his} hands and carried it "
        "over the roofs.",
        "Somewhere between the well and the harbour, {A} lost {thing.the}.",
        "{A.He} put {thing.the} down for one minute, and in that minute the "
        "<beast> walked off with it.",
        "By <hour> {thing.the} was nowhere: not in the bed, not under it, "
        "not even <spot>.",
    ],
    "find": [
        "<B=partner> found {thing.the} <spot> and did not know whose it was.",
        "It was <B=partner> who saw it first, <spot>, under a heap of leaves.",
        "Meanwhile, <spot>, <B=partner> stepped on something, and the "
        "something was {thing.the}.",
        "Who should come by but <B=partner>? {B.He} picked {thing.the} up "
        "and wiped it.",
        "The next <hour> <B=partner> found the <beast> asleep on {thing.the}.",
    ],
    "tempt": [
        "{B} would have liked to keep it.",
        '"A {look} {thing}!" said {B}. "Somebody will be sad tonight."',
        "For a while {B.he} told {B.pet} that things belong to whoever "
        "finds them, but it did not sound true.",
        "It fitted so well under {B.his} arm that {B.he} walked three times "
        "round the market.",
        '"Finders keepers," said the <beast>, but {B} shook {B.his} head.',
        "{B.He} sells {B.sells}, and nobody had ever left {B.him} anything "
        "so {look}.",
    ],
    "return": [
        "That <hour> {B} knocked at {A.home} and gave {thing.the} back to "
        "{A}.",
        '"Is this yours?" asked {B}, and {A} could only nod.',
        "{B} brought {A} {thing.the}, and {A.he} hugged first it and then "
        "{B.him}.",
        '"You left this behind," said {B}, and put {thing.the} on the table '
        "between them.",
        "In the end {A} got {thing.the} back from {B}, and not one word was "
        "said about it.",
        "{B} carried {thing.the} through the whole of Lull until {A} opened a "
        "window and shouted.",
    ],
    "thanks": [
        "In return {A} gave {B} a bowl of <food>.",
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
        "{thing.the} on <day>.",
        "{A} wrote {A.his} name on {thing.the}, and under it, smaller, the "
        "name of {B}.",
    ],
}

SWAPPING = {
    "meet": [
        "Then {A.he} saw <B=partner> <spot> with a <look=look> <thing=tool>.",
        "Now <B=partner> owned a <look=look> <thing=tool> and was tired of "
        "it.",
        "Who has a <thing=tool>? <B=partner> has, a <look=look> one, as "
        "everybody knows.",
        "The <beast> had seen a <look=look> <thing=tool> in the window of "
        "<B=partner>.",
        "Luckily <B=partner>, who fears {B.fears}, had bought a <look=look> "
        "<thing=tool> against it.",
    ],
    "offer": [
        '"My {spare} for your {thing}," said {A}.',
        '"Would you like a {spare}?" asked {A}. "It is {spare_look} and '
        'never bites."',
        "{A} held up {spare.the} and said nothing, which was clever.",
        "{A} pointed at {thing.the} and then at {spare.the}, and then at "
        "{thing.the} again.",
        '"I have dreamed about your {thing}," {A} confessed.',
    ],
    "haggle": [
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
    ],
    "both": [
        "{B} is said to be very happy with {spare.the}.",
        "As for {spare.the}, {B} sleeps beside it.",
        "{A} still has {thing.the}, and {B} still has {spare.the}.",
        "Once a year they swap back, {thing.the} for {spare.the}, and "
        "remember.",
        "{B} asked about {thing.the} only once, and then showed {A} what "
        "{spare.the} could do.",
    ],
}

VISITING = {
    "need": [
        "{V} had walked for <number> days and had eaten nothing but <food>.",
        "{V} had no coat, no map and no umbrella, only a very large bag.",
        '"Is this the place where the clock says noon?" asked {V}.',
        "The <beast> looked at {V}, and {V} looked at the <beast>, and "
        "neither was pleased.",
        "Nobody had ever heard of {V}, but {A} said good <hour> all the same.",
        '"{V}?" said {A}. "That is a name for a boat." "It was one," said '
        "{V}.",
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
        "In the morning {V} opened the bag and gave {A} a <look=look> "
        "<thing=tool>.",
        '"I have no money," said {V}, "but I have a <look=look> '
        '<thing=tool>, and it is yours."',
        "When {V} left, a <look=look> <thing=tool> lay on the table, with "
        "a card that said: for {A}.",
        "{V} gave a <look=look> <thing=tool> to {A}, as one gives somebody "
        "an apple.",
        "Out of the large bag came a smaller bag, and out of that came a "
        "<look=look> <thing=tool> for {A}.",
        '"Where I come from," said {V}, "every guest leaves a '
        '<look=look> <thing=tool>." And that is what {A} got.',
    ],
    "farewell": [
        "{V} was never seen again, but {A} keeps {thing.the} by the door.",
        "A card comes every <day>, and it is always signed {V}.",
        "{A} named the next <beast> {V}, and it listens to the name.",
        "Later {A} gave {thing.the} to a child who was crying <spot>, as "
        "{V} would have done.",
        '"{V}," says {A} to {thing.the} now and then, and it seems to nod.',
        "Whenever a stranger knocks in Lull, people ask at once whether "
        "it is {V}.",
    ],
}

ENDING = {
    "trouble": [
        "It began to rain, first a little and then all at once.",
        "On the way {A} met the <beast>, who wanted to know everything.",
        '"That will never work," said the <beast>.',
        "Then the <weather> <hour> turned into a <hour> that was worse.",
        "{A} is afraid of {A.fears}, and there was a good deal of it about.",
        "Twice {A} lost the way, and once {A.he} lost a boot.",
        "Half of Lull came along to watch, and the other half pretended "
        "not to.",
        "{A.He} waited until <day>, because nothing good ever happens in "
        "a hurry.",
        '"Now or never," said {A}, and then had a sandwich first.',
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
        "Nobody but the <beast> saw how {A} {wish.past}, and how {thing.the} "
        "shone.",
        "{A} {wish.past} that very <hour>, and {thing.the} did most of the "
        "work.",
    ],
    "cheer": [
        "The <beast> clapped.",
        "It was quiet for a moment, and then somebody laughed for joy.",
        '"Well," said {A}, "that was not so hard."',
        "{A.He} was so happy that {A.he} forgot to go home for supper.",
        "All the windows in Lull opened, and all the cats sat down.",
        "{A} told nobody, but {A.his} ears were red for <number> days.",
        '"Again!" cried the <beast>.',
        "Even the clock in the tower struck one, just to be polite.",
    ],
    "moral": [
        "That is why people in Lull say that a wish weighs less when two "
        "carry it.",
        "Ask the <beast> if you do not believe it.",
        "And if it has not rained since, the roof is still dry.",
        "After that there was <food> for everyone.",
        "Nobody wished for anything else until <day>.",
        "The rest of the story belongs to the <beast>.",
        "Then it got dark, as it does, and Lull went to bed.",
        "{A} slept well that night, and so did {A.pet}.",
    ],
}


def tell_story(page: Page) -> None:
    """A story: a wish, a thing that changes hands, a wish come true."""
    page.say("opening")
    page.put(" ")
    page.say("wish-told")
    page.put(" ")
    turn = page.say("turn")
    page.put("\n\n")
    _MIDDLES[turn](page)
    page.put("\n\n")
    for step in ("trouble", "deed", "cheer"):
        page.say(step)
        page.put(" ")
    page.say(_LAST[turn])
    page.put(" ")
    page.say("moral")


def _steps(page: Page, *names: str) -> None:
    page.say(names[0])
    for name in names[1:]:
        page.put(" ")
        page.say(name)


def _lose(page: Page) -> None:
    if page.say("loss") != "found":
        page.put(" ")
        page.say("find")
    page.put(" ")
    _steps(page, "tempt", "return", "thanks")


_MIDDLES = {
    "lend": lambda page: _steps(page, "call", "ask", "answer", "give"),
    "lose": _lose,
    "swap": lambda page: _steps(page, "meet", "offer", "haggle", "trade"),
    "visit": lambda page: _steps(page, "need", "host", "gift"),
}
_LAST = {
    "lend": "give-back",
    "lose": "leave-with",
    "swap": "both",
    "visit": "farewell",
}

RULES = {
    **WORDS,
    **{
        name: Rule(name, options)
        for part in (BEGINNING, LENDING, LOSING, SWAPPING, VISITING, ENDING)
        for name, options in part.items()
    },
}
