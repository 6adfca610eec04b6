"""Questions about images, made of captions by rules, as COCO-QA makes them (Ren et al. 2015).

Ren, Kiros and Zemel 2015, "Exploring models and data for image question answering", section 3.3.
There a parser finds the parts of a sentence; here a few patterns do, over lists of words that are
counted in the captions themselves and short closed lists below:

- "two dogs are running on grass": how many dogs are running on grass? two
- "a man in a red shirt is sitting": what colour is the man's shirt? red
- "a dog is jumping over a log": what is the dog jumping over? log
- the same: what is jumping over a log? dog

A sentence that fits no pattern gives no question, and neither does one that might be read wrongly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


OBJECT = "object"
NUMBER = "number"
COLOUR = "colour"

NUMBERS = _set("two three four five six seven eight nine ten")
COLOURS = _set(
    "black white red blue green yellow brown orange pink purple gray grey tan gold silver"
)
SPELLINGS = {"grey": "gray"}
DETERMINERS = _set("a an the his her their its")
ARTICLES = _set("a an the")
PREPOSITIONS = _set(
    "about above across after against along among around at behind below beneath beside between "
    "by down during from in inside into near off on onto out outside over past through to "
    "toward towards under underneath up upon with within without"
)
# which read as one preposition
COMPOUNDS = ("in front of", "on top of", "out of", "next to", "away from", "off of")
CONJUNCTIONS = _set("and or but while as when where who which that whose so because")
# words that end what goes before them, too
VERBS = _set("is are was were has have")
OTHERS = VERBS | _set("not it them each other of there")
CLOSED = DETERMINERS | PREPOSITIONS | CONJUNCTIONS | OTHERS | NUMBERS
BEFORE_NOUNS = DETERMINERS | PREPOSITIONS | NUMBERS | COLOURS
# what is asked for by who; a colour of theirs is no colour
SINGULAR_PEOPLE = _set(
    "man woman boy girl child kid person baby lady guy toddler player skateboarder surfer cyclist "
    "skier climber snowboarder rider athlete gentleman biker skater infant female male adult "
    "teenager dancer runner swimmer hiker performer musician worker bicyclist"
)
PLURAL_PEOPLE = _set(
    "men women boys girls children kids people babies ladies guys toddlers players teenagers "
    "adults friends cyclists hikers skiers runners females males climbers "
    "skateboarders bikers dancers surfers riders persons"
)
PEOPLE = SINGULAR_PEOPLE | PLURAL_PEOPLE
# heads that name no thing, or none that can be seen by itself
VAGUE = _set(
    "front top side back one ones other others group couple pair bunch lot lots picture photo "
    "camera middle center edge end bottom background foreground distance air day night time way "
    "left right each another something someone area kind type line row piece part set body "
    "direction view sort number variety crowd team place thing things corner outside inside "
    "look looks smile color colors colour colours clothes clothing outfit outfits fun turn high "
    "motion action sun position self himself herself themselves black white red blue green "
    "yellow brown orange pink purple gray grey tan gold silver"
)
# adverbs and the like that stand where nouns do
NO_NOUNS = _set(
    "him me all both be get high full fast before some outdoors indoors together barefoot "
    "downhill midair open seated parked"
)
# forms on -ing that begin no sentence of their own
NO_VERBS = _set(
    "being having during something nothing building ceiling wedding railing clothing string king "
    "ring wing spring evening morning crossing swing offering"
)
# of which nobody asks what they are done to: a swing is taken, a jump is made
WITH_ANY_NOUN = _set("taking making giving getting")
MOST_BEFORE_HEAD = 3  # words between a determiner and its noun
MOST_AFTER_VERB = 8  # words of a question after its verb
LEAST_SEEN = 20  # times that a word ends a phrase before it is a noun
AS_LAST = 0.3  # of its occurrences, at least
# of its occurrences that follow on a determiner or the like, at least
AS_NOUN = 0.5
AS_NOUN_WITHOUT_VERB = 0.15

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*|[^\sa-z]")


@dataclass(frozen=True, slots=True)
class CaptionQuestion:
    """A question about an image, its answer of one word, and which kind it is."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun with what goes before it.

    Attributes:
        words: those behind the determiner, of which the last is the noun.
        end: the index of the word behind it.
    """

    words: tuple[str, ...]
    end: int

    @property
    def head(self) -> str:
        """The noun."""
        return self.words[-1]


def words_of_caption(caption: str) -> list[str]:
    """Return the words of the first sentence of a caption in lower case; marks are words, too."""
    words = _WORD.findall(caption.lower())
    for mark in (".", ";", ":", "!", "?"):
        if mark in words:
            words = words[: words.index(mark)]
    return words


class CaptionGrammar:
    """What the words of captions can be, counted in the captions.

    Args:
        captions: lists of words.
    """

    def __init__(self, captions: Collection[Sequence[str]]) -> None:
        seen: Counter[str] = Counter()
        last: Counter[str] = Counter()
        behind: Counter[str] = Counter()
        for words in captions:
            seen.update(words)
            last.update(_last_of_runs(words))
            pairs = pairwise(words)
            behind.update(word for before, word in pairs if before in BEFORE_NOUNS)
        self.seen = seen
        self.nouns = frozenset(
            word
            for word, count in seen.items()
            if word not in CLOSED | COLOURS | NO_NOUNS
            and word[0].isalpha()
            and last[word] >= max(LEAST_SEEN, AS_LAST * count)
            and behind[word] >= self._least_behind(word) * count
        )

    def _least_behind(self, word: str) -> float:
        """Return which share of a word's occurrences follows on what nouns do, if it is one."""
        if word.endswith("ing"):
            return 1.0 if word not in NO_VERBS else AS_NOUN
        return AS_NOUN if self._gerund_of_stem(word) else AS_NOUN_WITHOUT_VERB

    def gerund(self, verb: str) -> str | None:
        """Return the form on -ing of a verb, or None where the word is none that is known."""
        if verb in self.nouns or verb in CLOSED:
            return None
        if verb.endswith("ing"):
            return None if verb in NO_VERBS or not self.seen[verb] else verb
        return self._gerund_of_stem(verb)

    def _gerund_of_stem(self, verb: str) -> str | None:
        stems = [verb]
        if verb.endswith("s") and not verb.endswith("ss"):
            stems.append(verb[:-1])
        if verb.endswith("es"):
            stems.append(verb[:-2])
        forms: list[str] = []
        for stem in stems:
            forms += [stem + "ing", stem[:-1] + "ing", stem + stem[-1:] + "ing"]
        counted = [(self.seen[form], form) for form in forms if form not in NO_VERBS]
        count, form = max(counted, default=(0, ""))
        return form if count >= LEAST_SEEN else None

    def phrase_at(self, words: Sequence[str], start: int) -> NounPhrase | None:
        """Return the noun phrase without its determiner that begins at an index, if one does."""
        end = start
        while end < len(words) and end - start <= MOST_BEFORE_HEAD:
            if not self._goes_before(words[end]):
                break
            end += 1
        # the last noun of the run: adjectives behind it belong to something else
        while end > start and words[end - 1] not in self.nouns:
            end -= 1
        if end == start:
            return None
        return NounPhrase(tuple(words[start:end]), end)

    def _goes_before(self, word: str) -> bool:
        """Whether a word can stand in a noun phrase."""
        if word in CLOSED or not word[0].isalpha():
            return False
        return word in self.nouns or not word.endswith("ing")

    def ends_phrase(self, words: Sequence[str], index: int) -> bool:
        """Whether no part of a noun phrase can follow: an end, a comma or a preposition does."""
        if index >= len(words):
            return True
        word = words[index]
        return word == "," or word in PREPOSITIONS or word in ("while", "as", "when")


def _last_of_runs(words: Sequence[str]) -> Iterator[str]:
    """Yield words behind which a run ends that can be a noun phrase: there a verb may be, too."""
    for word, following in zip_longest(words, words[1:], fillvalue=","):
        is_end = following in CLOSED or not following[0].isalpha()
        if word not in CLOSED and (is_end or following.endswith("ing")):
            yield word


def questions_of_caption(
    words: Sequence[str], grammar: CaptionGrammar
) -> list[CaptionQuestion]:
    """Return all questions that the patterns make of a caption.

    Args:
        words: of the caption.
        grammar: what they can be.
    """
    made = [
        *_of_colours(words, grammar),
        *_of_clause(words, grammar),
    ]
    return [question for question in made if not _says_answer(question)]


def _says_answer(question: CaptionQuestion) -> bool:
    """Whether the answer, or its plural or singular, is a word of the question."""
    stem = question.answer.removesuffix("s")
    stems = {word.removesuffix("s") for word in _WORD.findall(question.text)}
    return stem in stems


def _of_colours(
    words: Sequence[str], grammar: CaptionGrammar
) -> Iterator[CaptionQuestion]:
    """Yield what colour things have that are named once, with one colour."""
    for index, colour in enumerate(words):
        if colour not in COLOURS or not index or words[index - 1] not in DETERMINERS:
            continue
        phrase = grammar.phrase_at(words, index + 1)
        if phrase is None or not _can_be_coloured(words, phrase, grammar):
            continue
        owner = _owner(words, index - 1)
        verb = "are" if _is_plural(phrase.head) else "is"
        text = f"what colour {verb} {owner} {phrase.head}?"
        yield CaptionQuestion(text, SPELLINGS.get(colour, colour), COLOUR)


def _can_be_coloured(
    words: Sequence[str], phrase: NounPhrase, grammar: CaptionGrammar
) -> bool:
    """Whether a phrase behind a colour is one thing that the colour is of."""
    following = words[phrase.end] if phrase.end < len(words) else ""
    ends = grammar.ends_phrase(words, phrase.end) or following in ("is", "and")
    head = phrase.head
    is_named_once = words.count(head) == 1
    has_colour = bool(COLOURS & set(phrase.words))
    return ends and is_named_once and not has_colour and head not in PEOPLE | VAGUE


def _is_plural(noun: str) -> bool:
    """Whether a noun that names no people is a plural."""
    return noun.endswith("s") and not noun.endswith(("ss", "us"))


def _owner(words: Sequence[str], article: int) -> str:
    """Return whose a thing is that stands behind an article: "the man's", or "the"."""
    joint = words[article - 1] if article else ""
    if joint not in ("in", "wearing"):
        return "the"
    person = words[article - 2] if article > 1 else ""
    if person == "is" and article > 2:
        person = words[article - 3]
    clothes = person in SINGULAR_PEOPLE and words.count(person) == 1
    return f"the {person}'s" if clothes else "the"


@dataclass(frozen=True, slots=True)
class _Clause:
    """A sentence: who or what, a verb, and the words behind it."""

    first: str
    subject: NounPhrase
    gerund: str
    rest: tuple[str, ...]


def _clause(words: Sequence[str], grammar: CaptionGrammar) -> _Clause | None:
    """Return the parts of a sentence that begins with its subject, else None."""
    if len(words) < 4 or words[0] not in ARTICLES | NUMBERS:
        return None
    subject = grammar.phrase_at(words, 1)
    if subject is None or subject.head in VAGUE:
        return None
    index = subject.end
    if words[index : index + 1] and words[index] in ("in", "with", "wearing"):
        index = _behind_attribute(words, index, grammar)
    is_said = index < len(words) and words[index] in ("is", "are")
    index += is_said
    if index >= len(words):
        return None
    if not is_said and index != subject.end and words[index].endswith("ing"):
        return None  # it may be the attribute's
    gerund = grammar.gerund(words[index])
    if gerund is None or (is_said and gerund != words[index]):
        return None
    # "a boy mountain bikes"
    if gerund == "biking" and subject.head not in PEOPLE:
        return None
    return _Clause(words[0], subject, gerund, tuple(words[index + 1 :]))


def _behind_attribute(words: Sequence[str], index: int, grammar: CaptionGrammar) -> int:
    """Return the index behind "in a red shirt", or the same where there is something else."""
    start = index + 1
    if start < len(words) and words[start] in DETERMINERS:
        start += 1
    attribute = grammar.phrase_at(words, start)
    return index if attribute is None else attribute.end


def _of_clause(
    words: Sequence[str], grammar: CaptionGrammar
) -> Iterator[CaptionQuestion]:
    """Yield who does something, how many do, and what it is done to."""
    clause = _clause(words, grammar)
    if clause is None:
        return
    head = clause.subject.head
    is_many = clause.first in NUMBERS
    done = _said_of_subject(clause.rest, grammar)
    if is_many and (head in PLURAL_PEOPLE or _is_plural(head)):
        if done is not None:
            text = " ".join([head, "are", clause.gerund, *done])
            yield CaptionQuestion(f"how many {text}?", clause.first, NUMBER)
    elif done and not is_many:
        word = "who" if head in PEOPLE else "what"
        text = " ".join([clause.gerund, *done])
        yield CaptionQuestion(f"{word} is {text}?", head, OBJECT)
    yield from _of_object(clause, grammar)


def _said_of_subject(
    rest: Sequence[str], grammar: CaptionGrammar
) -> tuple[str, ...] | None:
    """Return the words behind a verb up to a noun that ends a phrase; None where none does."""
    ends = [
        index + 1
        for index, word in enumerate(rest[:MOST_AFTER_VERB])
        if word in grammar.nouns and grammar.ends_phrase(rest, index + 1)
    ]
    # up to a comma, another clause, or what would be cut off: "with a river in the background"
    breaks = [
        index
        for index, word in enumerate(rest)
        if word in CONJUNCTIONS | VERBS
        or not word[0].isalpha()
        or (index and word == "with")
        or (index and grammar.gerund(word) and rest[index - 1] not in CLOSED)
    ]
    limit = min(breaks, default=len(rest))
    ends = [end for end in ends if end <= limit]
    if not ends:
        return () if limit == 0 or not rest else None
    return tuple(rest[: ends[-1]])


def _of_object(clause: _Clause, grammar: CaptionGrammar) -> Iterator[CaptionQuestion]:
    """Yield what is done with the first thing behind a verb."""
    joint, start = _preposition(clause.rest)
    rest = clause.rest
    if start < len(rest) and rest[start] in DETERMINERS:
        start += 1
    phrase = grammar.phrase_at(rest, start)
    if phrase is None or phrase.head in VAGUE or clause.gerund in WITH_ANY_NOUN:
        return
    if not grammar.ends_phrase(rest, phrase.end):
        return
    head = clause.subject.head
    is_many = clause.first in NUMBERS
    verb = "are" if is_many else "is"
    if is_many != (head in PLURAL_PEOPLE or _is_plural(head)):
        return
    word = "who" if phrase.head in PEOPLE else "what"
    text = " ".join([word, verb, "the", head, clause.gerund, *joint])
    yield CaptionQuestion(f"{text}?", phrase.head, OBJECT)


def _preposition(rest: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Return the preposition that stands first, and the index behind it; else nothing and 0."""
    for compound in COMPOUNDS:
        parts = tuple(compound.split())
        if tuple(rest[: len(parts)]) == parts:
            return parts, len(parts)
    if rest and rest[0] in PREPOSITIONS:
        return (rest[0],), 1
    return (), 0
