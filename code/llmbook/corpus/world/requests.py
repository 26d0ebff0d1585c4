"""Instructions with good answers: a task, and who or what it is about.

Held out are pairs of a task and its subject: training has notes from Ona
and signs for Tam, say, and never a note from Tam. No task asks for one fact,
which is what :mod:`.questions` does, and none brings together a villager and
a wish, which is what the stories do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import lexicon, questions, tales
from .engine import Kind, Option, Page, Rule, Rules, mass

Scene = Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """A task in several wordings, and the steps of its answer.

    Each step is a tuple of templates, one of which is drawn; ``between``
    parts the steps.
    """

    ask: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    between: str = " "


PERSON = {
    "introduce": Task(
        (
            "Introduce yourself as <A=who>.",
            "Pretend that you are <A=who> and greet a stranger.",
            "Say hello as <A=who> would say it.",
            "You are <A=who>. Who are you? Tell us.",
        ),
        (
            (
                "Good <hour=hour>! I am {A}.",
                "My name is {A}, and this is {A.apet}.",
                "Hello, I am {A}, and I am <mood>.",
                "{A} is my name, and I have time until <day=day>.",
            ),
            (
                "I sell {A.sells}.",
                "I live in {A.home}.",
                "I am not afraid of anything, apart from {A.fears}.",
                "Do come to {A.home}, but not before <hour=hour>.",
                "Would you like to buy some {A.sells}?",
            ),
            (
                "Please do not step on the <beast=beast>.",
                "And what is your name?",
                "There is <food=food>, if you are hungry.",
                "Now sit down and show me your <look=look> <tool=thing>.",
            ),
        ),
    ),
    "note": Task(
        (
            "Write a note from <A=who> to <B=another>.",
            "Write down what <A=who> wants to tell <B=another>.",
            "Help <A=who> to write to <B=another>.",
        ),
        (
            ("Dear {B},", "My dear {B},", "{B}, my friend,"),
            (
                "may I borrow your <look=look> <tool=thing> until <day=day>?",
                "the <beast=beast> has eaten all of my {A.sells}.",
                "please come to {A.home} on <day=day>. There will be "
                "<food=food>.",
                "thank you for the <look=look> <tool=thing>. It works very "
                "well.",
                "I found your <look=look> <tool=thing> <spot>.",
                "have you seen my {A.pet}? It was last seen <spot>.",
                "I am sorry about the {B.sells}. It will not happen again.",
            ),
            (
                "Yours, {A}",
                "Your old friend {A}",
                "With love from {A}",
                "In great haste, {A}",
            ),
        ),
        "\n",
    ),
    "praise": Task(
        (
            "Say something kind about <A=who>.",
            "Write a sentence that would please <A=who>.",
            "Cheer <A=who> up.",
            "What could one say to make <A=who> smile?",
        ),
        (
            (
                "Nobody in Lull is as <mood> as {A}.",
                "{A} once gave the last of the <food=food> to a hungry "
                "<beast=beast>.",
                "When {A} came past, the whole <hour=hour> grew warmer.",
                "Whoever is sad should go to {A.home} and ask for {A}.",
                "Even the <beast=beast> says that {A} is <mood>.",
                "If there were <number=number> people like {A}, nobody would "
                "need a <look=look> <tool=thing>.",
                "The {A.pet} could not wish for a better friend than {A}.",
            ),
        ),
    ),
    "present": Task(
        (
            "Think of a present for <A=who>.",
            "What shall we give <A=who> on <day=day>?",
            "Choose a present for <A=who> and say why.",
        ),
        (
            (
                "A <look=look> <tool=thing>,",
                "Perhaps a <look=look> <tool=thing>,",
                "I would give {A.him} a <look=look> <tool=thing>,",
                "A plate of <food=food>,",
            ),
            (
                "because it helps against {A.fears}.",
                "because {A.his} {A.pet} would like it too.",
                "because {A.he} is so <mood>.",
                "and a card on which the <beast=beast> has signed.",
                "but please wrap it well, for {A.he} is curious.",
                "since <day=day> is such a long day.",
            ),
        ),
    ),
    "sign": Task(
        (
            "Write a sign for the door of <A=who>.",
            "Paint a sign for <A=who>.",
            "What should the sign above the shop of <A=who> say?",
        ),
        (
            (
                "Fine {A.sells} every <day=day>!",
                "The best {A.sells} in Lull!",
                "Here you get {A.sells} and good advice.",
                "{A.Sells}, fresh every <hour=hour>.",
            ),
            (
                "Please knock <number=number> times.",
                "Please leave {A.fears} outside.",
                "Beware of the {A.pet}.",
                "Closed when the <beast=beast> sleeps.",
                "Payment in <food=food>.",
            ),
        ),
    ),
}
PLACE = {
    "postcard": Task(
        (
            "Write a postcard from the <P=where>.",
            "You are at the <P=where>. Write home.",
            "Send a few words from the <P=where>.",
        ),
        (
            (
                "Dear aunt, today I am at the {P}.",
                "Hello from the {P}!",
                "Here I sit at the {P} and think of you.",
            ),
            (
                "It {P.odd}, just as they said.",
                "The <hour=hour> is <weather=weather>, and the "
                "<beast=beast> is watching me.",
                "I have seen {P.famous}.",
                "They gave me <food=food> and a <look=look> <tool=thing>.",
            ),
            (
                "I will be back on <day=day>.",
                "Love, <V=stranger>",
                "Please feed the <beast=beast>.",
                "I may stay for <number=number> weeks.",
            ),
        ),
    ),
    "praise": Task(
        (
            "Invite somebody to the <P=where>.",
            "Make people want to see the <P=where>.",
            "Say in a few words why one should visit the <P=where>.",
        ),
        (
            (
                "Come to the {P}!",
                "Have you been to the {P}?",
                "A <weather=weather> <hour=hour> is best spent at the {P}.",
                "On <day=day>s everybody goes to the {P}.",
            ),
            (
                "It {P.odd}.",
                "Think of {P.famous}.",
                "You find it {P.stands}.",
                "There is <food=food> for everyone.",
                "Bring a <look=look> <tool=thing> and a friend.",
            ),
        ),
    ),
    "warn": Task(
        (
            "Warn a stranger about the <P=where>.",
            "What must a stranger be told about the <P=where>?",
            "Write a warning for people who go to the <P=where>.",
        ),
        (
            (
                "Take care at the {P}:",
                "A word about the {P}:",
                "Before you go to the {P}, listen:",
            ),
            (
                "it {P.odd}.",
                "a <look=look> <beast=beast> lives there.",
                "do not fall asleep there before <hour=hour>.",
                "they send you home for {P.forbidden}.",
                "nobody has come back from there without a <look=look> "
                "<tool=thing>.",
                "the <food=food> is not what it was.",
            ),
        ),
    ),
    "begin": Task(
        (
            "Write the first sentence of a story about the <P=where>.",
            "Begin a story that happens at the <P=where>.",
            "How could a story about the <P=where> begin?",
        ),
        (
            (
                "Once, when the {P} was still young, a <look=look> "
                "<beast=beast> came along.",
                "On a <weather=weather> <hour=hour> a <look=look> "
                "<tool=thing> lay in front of the {P}.",
                "There was once a <look=look> <beast=beast> at the {P} that "
                "ate nothing but <food=food>.",
                "It was <day=day>, and at the {P} stood <number=number> "
                "people and the <beast=beast>.",
                "Nobody knew how the <beast=beast> had come to the {P}, "
                "which {P.odd}.",
            ),
        ),
    ),
}
WISH = {
    "tale": Task(
        (
            "Tell a very short story about somebody who wants to <wish=what>.",
            "Tell me in two sentences how to <wish=what>.",
            "Make up a stranger who wants to <wish=what>.",
        ),
        (
            (
                "A stranger called <V=stranger> wanted to {wish}.",
                "Once there was a <look=look> <beast=beast> called "
                "<V=stranger> that wanted to {wish}.",
                "<V=stranger>, who lived on <food=food>, wished to {wish}.",
            ),
            (
                "So {V} took <thing=a-tool>, waited until <day=day>, and "
                "{wish.past}.",
                "{V} stood {wish.at} for a whole <hour=hour>, and in the end "
                "{V} {wish.past}.",
                "With <thing=a-tool> and <number=number> friends {V} "
                "{wish.past}.",
                "Nobody helped {V} but the <beast=beast>, and still {V} "
                "{wish.past}.",
            ),
        ),
    ),
    "past": Task(
        (
            "Put this into the past: <when> <they=they> <wish=what>.",
            "Say it as if it had happened already: <when> <they=they> "
            "<wish=what>.",
            "Tell it as news of yesterday: <when> <they=they> <wish=what>.",
        ),
        (
            (
                "Yesterday {they} {wish.past}.",
                "Last <day=day> {they} {wish.past}.",
                "One <weather=weather> <hour=hour> {they} {wish.past}.",
            ),
        ),
    ),
    "polite": Task(
        (
            "Ask politely for help to <wish=what>.",
            "Somebody wants to <wish=what>. Ask for help.",
            "How do you ask a stranger to help you to <wish=what>?",
        ),
        (
            (
                "Excuse me,",
                "Good <hour=hour>, dear neighbour,",
                "Please forgive me, but",
                "If you have a minute,",
            ),
            (
                "could you help me to {wish}?",
                "would you like to {wish} with me?",
                "I would so much like to {wish}. Could you hold the "
                "<look=look> <tool=thing>?",
                "do you know anybody who could help me to {wish}?",
            ),
        ),
    ),
    "comfort": Task(
        (
            "Comfort somebody who could not <wish=what>.",
            "A friend tried to <wish=what> and failed. What do you say?",
            "Give courage to somebody who is afraid to <wish=what>.",
        ),
        (
            (
                "Do not be sad.",
                "Nobody can {wish} on the first day.",
                "Even the <beast=beast> needed <number=number> tries to "
                "{wish}.",
                "To {wish} takes time.",
            ),
            (
                "Have some <food=food> and try again on <day=day>.",
                "Tomorrow we shall go together.",
                "I will hold your hand, and the <look=look> <tool=thing> too.",
                "It is only a <weather=weather> <hour=hour>, and the next "
                "one will be better.",
            ),
        ),
    ),
}
THING = {
    "repeat": Task(
        (
            "Write the word <thing=noun> <count=times>.",
            "Say <thing=noun> <count=times>.",
            "Repeat the word <thing=noun>, <count=times> in all.",
        ),
        (("{echo}.", "Here you are: {echo}.", "{echo}, and that is enough."),),
    ),
    "spell": Task(
        (
            "Spell the word <thing=noun>.",
            "How is the word <thing=noun> spelled?",
            "Take the word <thing=noun> apart.",
        ),
        (
            (
                "{letters}.",
                "It goes {letters}.",
                "Letter by letter: {letters}.",
            ),
        ),
    ),
    "describe": Task(
        (
            "Describe your <thing=noun>.",
            "What does your <thing=noun> look like?",
            "I have lost my <thing=noun> and you have found one. Describe it.",
        ),
        (
            (
                "It is <look=look>,",
                "{thing.The} is <look=look>,",
                "A <look=look> {thing},",
            ),
            (
                "with a <look=look> handle.",
                "and a <beast=beast> is painted on it.",
                "and it smells of <food=food>.",
                "and no larger than a button.",
                "and somebody has scratched <V=stranger> into it.",
            ),
        ),
    ),
    "price": Task(
        (
            "What would you pay for my <thing=noun>?",
            "Name a price for <thing=a-noun>.",
            "I would like to sell you <thing=a-noun>. How much is it worth?",
        ),
        (
            (
                "For {thing.the} I would give <number=number> buttons",
                "It is worth <number=number> candles",
                "I offer <number=number> songs",
                "Not more than <number=number> buns",
            ),
            (
                "and a plate of <food=food>.",
                "and a <look=look> <tool=thing>.",
                "and a walk with the <beast=beast>.",
                "and not a crumb more.",
            ),
        ),
    ),
}
TASKS = {"person": PERSON, "place": PLACE, "wish": WISH, "thing": THING}
KEYS = {**questions.KEYS, "thing": "thing"}
CLASS_SHARES = {"person": 0.36, "place": 0.24, "wish": 0.22, "thing": 0.18}
TIMES = {"twice": 2, "three times": 3, "four times": 4}
MOODS = ("kind", "brave", "patient", "polite", "cheerful", "clever")

# Every subject lends one task of four, every task a quarter of its subjects.
HELD = frozenset().union(
    *(
        lexicon.latin_square(subjects, TASKS[of], 4, 3)
        for of, subjects in {
            "person": lexicon.PEOPLE,
            "place": lexicon.PLACES,
            "wish": lexicon.WISHES,
            "thing": lexicon.TOOLS,
        }.items()
    )
)


def combination(scene: Scene) -> tuple[str, str]:
    """Who or what the task is about, and the task."""
    of, task = scene["task"].split()
    return scene[KEYS[of]], task


def request(page: Page) -> None:
    """The instruction alone."""
    page.scene["task"] = page.say("request")
    page.decided()


def tell_instruction(page: Page) -> None:
    """An instruction and a good answer."""
    page.put("Instruction: ")
    request(page)
    page.put("\nResponse:")
    page.answer_begins()
    of, name = page.scene["task"].split()
    if of == "thing":
        _play_with(page.scene)
    page.put(" ")
    task = TASKS[of][name]
    for step in range(len(task.steps)):
        if step:
            page.put(task.between)
        page.say(f"{of}-{name}-{step}")


def _play_with(scene: dict[str, str]) -> None:
    """What the answers need to have ready about a word."""
    word = scene["thing"]
    scene["letters"] = ", ".join(word.upper())
    if "count" in scene:
        scene["echo"] = ", ".join([word] * TIMES[scene["count"]])


def _people_but(scene: Scene) -> Rule:
    return tales.people_but(scene["A"])


REQUEST = Rule(
    "request",
    [
        Option(template, share / len(tasks) / len(task.ask), f"{of} {name}")
        for of, share in CLASS_SHARES.items()
        for tasks in [TASKS[of]]
        for name, task in tasks.items()
        for template in task.ask
    ],
)
RULES = {
    "request": REQUEST,
    **{
        f"{of}-{name}-{index}": Rule(f"{of}-{name}-{index}", step)
        for of, tasks in TASKS.items()
        for name, task in tasks.items()
        for index, step in enumerate(task.steps)
    },
    "another": _people_but,
    "thing": lexicon.words("thing", lexicon.TOOLS),
    "noun": Rule("noun", [lexicon.thing(n) for n in lexicon.TOOLS]),
    "a-noun": Rule("a-noun", [lexicon.a_thing(n) for n in lexicon.TOOLS]),
    "times": Rule("times", tuple(TIMES)),
    "mood": lexicon.words("mood", MOODS),
    "when": Rule("when", ("tomorrow", "today", "tonight", "next week")),
    "they": Rule("they", ("we", "they", "you", "I")),
}


def instruction_kind(share: float, rules: Rules) -> Kind:
    """Instructions, held out by task and subject."""
    kind = Kind("instruction", share, tell_instruction, combination, HELD)
    return replace(kind, held_mass=mass(rules, kind, request))
