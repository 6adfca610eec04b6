"""What does 그것 ("it") mean? Korean sentences of a word list in which the closing verb decides.

우리 아이는 새 운동화와 작은 사과를 골랐다. 그래서 그것을 저녁을 기다리며 다시 신었다.

Two nouns of different kinds, then 그것을, then 0 to 60 words that tell nothing, then a verb that
goes with one kind of noun: 신었다 with 운동화, 먹었다 with 사과. The label is the noun that is
meant.

Of five nouns of a kind one verb each is held out: no training row holds both. All held-out rows
ask for such pairs, beside a noun of another kind that no training row holds with the verb either.
Who has learnt pairs by heart can but guess between the two there; what is needed is that the verb
goes with shoes, and that the noun is one. Each of these nouns is meant in half of the held-out rows
that it stands in, and the first noun is meant in half of all rows.

``python -m unrolled.studies.geugeot FOLDER`` writes the two files that ship.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unrolled.core.files import write_bytes

SEED = 5
PART = 2  # one of so many combinations is trained on
HELD_TIMES = 8  # that a held-out combination stands there, with other words around it
FARTHEST = 60  # words between 그것을 and the verb
TRAIN_FILE = "geugeot.csv.gz"
HELD_FILE = "geugeot-held-out.csv.gz"
COLUMNS = ("text", "label", "distance")

# nouns of a kind, and the verbs that go with this kind and no other
KINDS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "운동화",
            "구두",
            "장화",
            "샌들",
            "부츠",
            "슬리퍼",
            "고무신",
            "등산화",
            "실내화",
            "짚신",
        ),
        (
            "신었다",
            "갈아신었다",
            "덧신었다",
            "꿰신었다",
            "신겼다",
        ),
    ),
    (
        (
            "사과",
            "만두",
            "떡볶이",
            "김밥",
            "수박",
            "빵",
            "국수",
            "불고기",
            "딸기",
            "고구마",
        ),
        (
            "먹었다",
            "씹었다",
            "삼켰다",
            "맛보았다",
            "집어먹었다",
        ),
    ),
    (
        (
            "소설책",
            "잡지",
            "신문",
            "만화책",
            "동화책",
            "시집",
            "수필집",
            "위인전",
            "교과서",
            "편지",
        ),
        (
            "읽었다",
            "낭독했다",
            "탐독했다",
            "정독했다",
            "완독했다",
        ),
    ),
    (
        (
            "외투",
            "치마",
            "셔츠",
            "바지",
            "한복",
            "교복",
            "조끼",
            "원피스",
            "저고리",
            "잠옷",
        ),
        (
            "입었다",
            "걸쳤다",
            "갈아입었다",
            "껴입었다",
            "차려입었다",
        ),
    ),
    (
        (
            "우유",
            "주스",
            "커피",
            "녹차",
            "식혜",
            "콜라",
            "보리차",
            "홍차",
            "막걸리",
            "두유",
        ),
        (
            "마셨다",
            "들이켰다",
            "들이마셨다",
            "홀짝였다",
            "퍼마셨다",
        ),
    ),
    (
        (
            "자동차",
            "트럭",
            "버스",
            "택시",
            "오토바이",
            "승합차",
            "소방차",
            "구급차",
            "승용차",
            "트랙터",
        ),
        (
            "탔다",
            "몰았다",
            "운전했다",
            "주차했다",
            "세차했다",
        ),
    ),
)
HELD_OUT_NOUNS = 5  # nouns of a kind that held-out rows are of, the first ones
SUBJECTS = (
    "우리 아이는",
    "내 동생은",
    "옆집 할머니는",
    "김 선생님은",
    "그 학생은",
    "내 친구는",
    "우리 삼촌은",
    "이웃 아저씨는",
)
ADJECTIVES = (
    "새",
    "작은",
    "큰",
    "멋진",
    "귀한",
    "비싼",
    "특별한",
    "선물받은",
    "아끼던",
    "유명한",
)
CHOICES = ("골랐다.", "샀다.", "받았다.", "좋아한다.", "아낀다.", "구했다.")
# what may stand between: it goes with every noun and every verb
BETWEEN = (
    "어제",
    "다시",
    "혼자",
    "매일",
    "정말",
    "마침내",
    "조용히",
    "천천히",
    "곧바로",
    "이따금",
    "새벽에",
    "집에서",
    "기쁘게",
    "오랫동안",
    "아무도 모르게",
    "저녁을 기다리며",
    "비 오는 날에도",
    "창가에 앉아",
    "노래를 부르며",
    "웃음을 참으며",
    "친구와 함께",
    "해가 질 때까지",
    "시간이 날 때마다",
    "모두가 보는 앞에서",
    "날이 추워지기 전에",
    "누가 뭐라고 해도",
    "일이 다 끝난 뒤에",
    "아무 말도 하지 않고",
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A row: the text, the noun that 그것 means, and how many words stand before the verb.

    Attributes:
        nouns: both, in the order of the text.
        verb: the closing one.
    """

    text: str
    label: str
    distance: int
    nouns: tuple[str, str]
    verb: str


def held_verb(kind: int, noun: str) -> str | None:
    """Return the verb that no training row holds together with a noun it goes with.

    None for the nouns that held-out rows are not of.
    """
    nouns, verbs = KINDS[kind]
    number = nouns.index(noun)
    return verbs[(number + kind) % len(verbs)] if number < HELD_OUT_NOUNS else None


def reserved(kind: int, verb: str) -> list[str]:
    """Return the nouns of other kinds that no training row holds beside a verb.

    They stand beside it in held-out rows, so that neither noun was ever seen with the verb there,
    and nothing follows from having seen one.
    """
    verbs = KINDS[kind][1]
    number = verbs.index(verb)
    beside: list[str] = []
    for other, (nouns, _) in enumerate(KINDS):
        if other != kind:
            beside += nouns[
                (number + kind + other) % len(verbs) : HELD_OUT_NOUNS : len(verbs)
            ]
    return beside


def combinations(held_out: bool) -> list[tuple[str, str, str]]:
    """Return (noun that is meant, noun that is not, verb) of training rows, or of those held out.

    Of training, a part: every ``PART``-th by the sum of their numbers, so that each noun and each
    verb keeps its part.
    """
    chosen: list[tuple[str, str, str]] = []
    for kind, (nouns, verbs) in enumerate(KINDS):
        for noun, verb in itertools.product(nouns, verbs):
            if (held_verb(kind, noun) == verb) != held_out:
                continue
            beside = reserved(kind, verb)
            for number, other in enumerate(_other_nouns(kind)):
                in_part = (nouns.index(noun) + number) % PART == verbs.index(
                    verb
                ) % PART
                if (other in beside) == held_out and (held_out or in_part):
                    chosen.append((noun, other, verb))
    return chosen


def _other_nouns(kind: int) -> Iterator[str]:
    for other, (nouns, _) in enumerate(KINDS):
        if other != kind:
            yield from nouns


def sentences(held_out: bool, seed: int = SEED) -> Iterator[Sentence]:
    """Yield the training rows, or those held out, in the order of chance.

    Every combination stands there as often as any other, as often in one order of its nouns as in
    the other.
    """
    plan = list(itertools.product(combinations(held_out), (True, False)))
    plan *= HELD_TIMES if held_out else 1
    draw = random.Random(seed + held_out)
    draw.shuffle(plan)
    for number, ((noun, other, verb), first) in enumerate(plan):
        distance = number % (FARTHEST + 1)
        if not held_out:
            # short ones are many: who has learnt these finds the way to the long ones
            distance = min(
                distance, draw.randrange(FARTHEST + 1), draw.randrange(FARTHEST + 1)
            )
        yield _sentence(draw, noun, other, verb, first, distance)


def _sentence(
    draw: random.Random, noun: str, other: str, verb: str, first: bool, distance: int
) -> Sentence:
    nouns = (noun, other) if first else (other, noun)
    before, beside = draw.sample(ADJECTIVES, 2)
    words = [
        draw.choice(SUBJECTS),
        before,
        nouns[0] + _particle(nouns[0], "과", "와"),
        beside,
        nouns[1] + _particle(nouns[1], "을", "를"),
        draw.choice(CHOICES),
        "그래서 그것을",
        *between(draw, distance),
        f"{verb}.",
    ]
    return Sentence(" ".join(words), noun, distance, nouns, verb)


def between(draw: random.Random, count: int) -> list[str]:
    """Return phrases of ``count`` words in all that tell nothing of nouns or verbs."""
    phrases: list[str] = []
    while count:
        fitting = [phrase for phrase in BETWEEN if len(phrase.split()) <= count]
        phrase = draw.choice(fitting)
        phrases.append(phrase)
        count -= len(phrase.split())
    return phrases


def _particle(word: str, closed: str, open_: str) -> str:
    """Return the particle after a word: one form after a final consonant, one after a vowel."""
    has_final = (ord(word[-1]) - ord("가")) % 28 > 0
    return closed if has_final else open_


def as_csv(rows: Iterator[Sentence]) -> bytes:
    """Return sentences as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow((row.text, row.label, row.distance))
    return text.getvalue().encode()


def files() -> dict[str, bytes]:
    """Return the files that ship, unpacked: the training part and the held-out part."""
    return {
        TRAIN_FILE: as_csv(sentences(held_out=False)),
        HELD_FILE: as_csv(sentences(held_out=True)),
    }


def main(folder: str) -> None:
    """Write the files that ship into a folder."""
    for name, data in files().items():
        # no time in the header: equal content gives equal bytes
        write_bytes(Path(folder) / name, gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
