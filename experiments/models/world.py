"""A synthetic world of people and facts, in which every sentence can be checked against its context.

Some people are *known*: their facts never change, and a model trained on this world learns them by heart. All other
people are *new*: their facts are drawn afresh for every text and stand only in its context. A context may also
contradict what is known; an answer that repeats the known fact then contradicts its context, which makes it a
hallucination by construction. Everything here is text and a seeded `random.Random`: no model is involved.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

Verdict = Literal["supported", "contradicted", "unsupported", "unparseable"]


RELATIONS = {
    "visits": tuple("Arvik Belmor Corlen Dasko Elvas Firth Gorum Helsby Istra Jarrow Kelso Lunden".split()),
    "teaches": tuple("history algebra physics music biology law logic poetry botany ethics design dance".split()),
    "plays": tuple("violin flute harp cello drums banjo horn lute piano tuba sitar guitar".split()),
    "keeps": tuple("dogs cats parrots turtles ferrets goats ponies rabbits hamsters lizards geckos falcons".split()),
    "drinks": tuple("tea coffee cider milk cocoa water wine juice beer soda rum punch".split()),
    "speaks": tuple("Welsh Dutch Greek Danish Polish Czech Malay Hindi Tamil Zulu Finnish Basque".split()),
}
TASKS = ("describe", "questions", "compare")
SEED, KNOWN_PEOPLE = 0, 40  # of what the built-in model knows by heart
_ONSETS = "Ba De Fi Go Ku La Mi No Pe Ro Sa Tu Va Zo Hu".split()
_ENDINGS = "ra lin do ven sha mon wick by ton sen ley gar nat pol rix zer".split()
PEOPLE = tuple(onset + ending for onset, ending in product(_ONSETS, _ENDINGS))
_NAMES = frozenset(PEOPLE)
_SENTENCE = re.compile(r"(\w+) (\w+) (\w+)\.")


class Fact(NamedTuple):
    """One person's value of one relation."""

    who: str
    verb: str
    what: str


@dataclass(frozen=True)
class Episode:
    """A context, what is asked about it, and the style in which it is asked; an empty context asks for memory."""

    context: tuple[Fact, ...]
    asked: tuple[tuple[str, str], ...]
    task: str

    @property
    def prompt(self) -> str:
        """The text up to the point at which the answer, which starts with a space, begins."""
        told = " ".join(map(state, self.context))
        return f"Context: {told or 'none.'} Request: {_request(self.asked, self.task)} Answer:"


def state(fact: Fact) -> str:
    """Say one fact as one sentence."""
    return f"{fact.who} {fact.verb} {fact.what}."


def parse(sentence: str) -> Fact | None:
    """Read one sentence back into the fact that it states, or None if it states no possible fact of this world."""
    match = _SENTENCE.fullmatch(sentence)
    if match is None:
        return None
    fact = Fact(*match.groups())
    return fact if fact.who in _NAMES and fact.what in RELATIONS.get(fact.verb, ()) else None


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the sentences of a text, without the spaces between them."""
    return [match.span() for match in re.finditer(r"[^\s.?][^.?]*[.?]?", text)]


def context_facts(prompt: str) -> dict[tuple[str, str], str]:
    """What the context of a prompt says: (person, relation) to value."""
    told = prompt.removeprefix("Context: ").split(" Request: ")[0]
    facts = (parse(told[start:end]) for start, end in sentence_spans(told))
    return {(fact.who, fact.verb): fact.what for fact in facts if fact}


def judge(prompt: str, response: str) -> list[tuple[tuple[int, int], Verdict]]:
    """Hold every sentence of a response against the context of its prompt: its character span and the verdict."""
    told = context_facts(prompt)
    return [(span, _verdict(parse(response[slice(*span)]), told)) for span in sentence_spans(response)]


def _verdict(claim: Fact | None, told: dict[tuple[str, str], str]) -> Verdict:
    if claim is None:
        return "unparseable"
    if (claim.who, claim.verb) not in told:
        return "unsupported"
    return "supported" if told[claim.who, claim.verb] == claim.what else "contradicted"


def answer(episode: Episode, facts: dict[tuple[str, str], str]) -> str:
    """The answer that states, sentence by sentence, what is asked, each with a leading space."""
    return "".join(" " + state(Fact(who, verb, facts[who, verb])) for who, verb in episode.asked)


@cache
def known_facts(seed: int, people: int) -> dict[tuple[str, str], str]:
    """The facts to be learnt by heart: (person, relation) to value, for the given number of people."""
    rng = random.Random(f"known/{seed}")
    return {(who, verb): rng.choice(RELATIONS[verb]) for who in rng.sample(PEOPLE, people) for verb in RELATIONS}


def fame(seed: int, who: str, verb: str) -> float:
    """How famous a known fact is, from 0 to 1: the chance that texts repeat it even against their context."""
    return random.Random(f"fame/{seed}/{who}/{verb}").random()


def known_people(known: dict[tuple[str, str], str]) -> list[str]:
    """The people whose facts are known, each once."""
    return list(dict.fromkeys(who for who, _ in known))


def draw_recital(rng: random.Random, known: dict[tuple[str, str], str], facts: int, repeats: int) -> tuple[str, str]:
    """A text that states new facts, and one that repeats each of them several times in changing order and form.

    Almost every value in the second text can be copied from the first, so it teaches copying faster than answers do.
    """
    verbs = rng.sample(list(RELATIONS), rng.choice((1, 2, 4)))
    people = _people(rng, known_people(known), [False] * facts)
    keys = rng.sample(list(product(people, verbs)), facts)
    told = [Fact(*key, _value(rng, key, known, False)) for key in keys]
    texts = []
    for _ in range(1 + repeats):
        texts.append("".join(" " + state(fact) for fact in told))
        rng.shuffle(told)
    return "Context:" + texts[0], "".join(texts[1:])


def draw(
    rng: random.Random, known: dict[tuple[str, str], str], sentences: int, from_memory: float, conflicts: int
) -> Episode:
    """Draw an episode whose context has about so many sentences, so many of them contradicting what is known.

    `from_memory` is the share of known people among those asked about; a conflict needs a known person, so with
    conflicts there is at least one. Zero sentences ask for memory alone.
    """
    task = rng.choice(TASKS)
    count = min(rng.randint(3, 5), sentences or 5)
    famous = known_people(known)
    width = 1 if task == "describe" else count
    aware = [sentences == 0 or rng.random() < from_memory for _ in range(width)]
    for index in range(min(conflicts, width)):
        aware[index] = True
    rng.shuffle(aware)
    people = _people(rng, famous, aware)
    asked = _asked(rng, task, people, count)
    if not sentences:
        return Episode((), asked, task)
    remembered = [key for key in asked if key in known]
    contradicted = rng.sample(remembered, min(conflicts, len(remembered)))
    told = _told(rng, known, asked, sentences)
    context = [Fact(*key, _value(rng, key, known, key in contradicted)) for key in told]
    return Episode(tuple(context), asked, task)


def _people(rng: random.Random, famous: Sequence[str], aware: Sequence[bool]) -> list[str]:
    """One distinct person for each flag: a known one where it is set, else a new one."""
    remembered = iter(rng.sample(list(famous), sum(aware)))
    strangers = (who for who in rng.sample(PEOPLE, len(aware) + len(famous)) if who not in famous)
    return [next(remembered if is_known else strangers) for is_known in aware]


def _asked(rng: random.Random, task: str, people: Sequence[str], count: int) -> tuple[tuple[str, str], ...]:
    if task == "describe":
        return tuple((people[0], verb) for verb in rng.sample(list(RELATIONS), count))
    if task == "compare":
        verb = rng.choice(list(RELATIONS))
        return tuple((who, verb) for who in people)
    return tuple((who, rng.choice(list(RELATIONS))) for who in people)


def _told(
    rng: random.Random, known: dict[tuple[str, str], str], asked: Sequence[tuple[str, str]], sentences: int
) -> list[tuple[str, str]]:
    """The keys of the context: those asked, and distractors that share a person or a relation with them."""
    people = [who for who, _ in asked] + rng.sample(known_people(known), 2) + rng.sample(PEOPLE, 3)
    others = [key for key in product(dict.fromkeys(people), RELATIONS) if key not in asked]
    told = list(asked) + rng.sample(others, min(len(others), max(0, sentences - len(asked))))
    rng.shuffle(told)
    return told


def _value(rng: random.Random, key: tuple[str, str], known: dict[tuple[str, str], str], contradict: bool) -> str:
    if key in known and not contradict:
        return known[key]
    return rng.choice([value for value in RELATIONS[key[1]] if value != known.get(key)])


def _request(asked: Sequence[tuple[str, str]], task: str) -> str:
    if task == "describe":
        return f"Describe {asked[0][0]}: {', '.join(verb for _, verb in asked)}."
    if task == "compare":
        return f"Who {asked[0][1]} what: {', '.join(who for who, _ in asked)}?"
    return questions(asked)


def questions(asked: Sequence[tuple[str, str]]) -> str:
    """Ask for each (person, relation) in a sentence of its own."""
    return " ".join(
        f"What does {who} {verb.removesuffix('es') if verb == 'teaches' else verb[:-1]}?" for who, verb in asked
    )
