"""What is asked of a model: how long the questions and answers are, and the texts, which follow from a seed.

No two requests begin alike (but for a prefix that they are told to share), and another `salt` gives other texts: an
engine that keeps prefixes would otherwise know a question before it is asked, within a run or from the run before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vllm_mcp_protocol.model import Value
from vllm_performance_monitor.core.benchmarks.dice import Dice

Kind = Literal["short", "long", "mixed", "texts"]
LENGTHS: dict[Kind, tuple[int, int]] = {"short": (128, 128), "long": (4096, 256), "mixed": (1024, 128)}
"""Tokens in and out: a turn of a chat; a document with a question to it; both and what lies between."""

_SPREAD = 0.75
"""`mixed` draws lengths evenly from 1/4 to 7/4 of the mean."""

_VOCABULARY = (
    "able about above across act add after again air all along also always and animal answer any apple area arm "
    "around ask away baby back ball bank base bear beat bed before begin behind bell best better big bird black blood "
    "blue boat body bone book both box boy bread break bring brother brown build burn busy buy call came camp car "
    "card care carry case catch cause chair chance change chart check child choose circle city class clean clear "
    "climb clock close cloth cloud coast coat cold color come common cook cool copy corn corner cost cotton count "
    "country course cover cross crowd cry cut dance dark day dead deal dear decide deep desert desk die differ direct "
    "doctor dog door double down draw dream dress drink drive drop dry duck during each ear early earth east eat edge "
    "egg eight else end engine enough enter equal even evening event ever every exact eye face fact fall family far "
    "farm fast fat father fear feed feel few field fight figure fill final find fine finger finish fire first fish "
    "five flat floor flow flower fly follow food foot force forest form forward four free fresh friend from front "
    "fruit full game garden gas gather gave general gentle get girl give glad glass go gold gone good grand grass "
    "gray great green grew ground group grow guess guide gun hair half hand happen happy hard hat head hear heart "
    "heat heavy help here high hill hold home hope horse hot hour house huge idea inch island "
)
_WORDS = tuple(_VOCABULARY.split())
assert len(_WORDS) == 256, len(_WORDS)  # noqa: S101 - a word is a byte of the dice

_LENGTHS_STREAM, _WORDS_STREAM, _PREFIX_STREAM = 1, 2, 3


class Workload(Value):
    """The questions of a benchmark. Lengths are tokens as the server counts them."""

    kind: Kind = "short"
    input_tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    output_tokens: Annotated[int, Field(ge=1, le=100_000)]
    texts: tuple[str, ...] = ()
    """Asked in turn, as they are, when `kind` is texts."""
    prefix_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each question with which it begins like others of its group."""
    prefix_groups: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _texts_belong_to_texts(self) -> Self:
        if (self.kind == "texts") != bool(self.texts):
            raise ValueError("texts are given exactly when kind is texts")
        return self

    @classmethod
    def of(
        cls,
        kind: Kind = "short",
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        texts: Sequence[str] = (),
        prefix_share: float = 0.0,
        prefix_groups: int = 1,
        seed: int = 0,
    ) -> Self:
        """A workload with the usual lengths of its kind where none are given."""
        usual_in, usual_out = LENGTHS.get(kind, LENGTHS["short"])
        return cls(
            kind=kind,
            input_tokens=usual_in if input_tokens is None else input_tokens,
            output_tokens=usual_out if output_tokens is None else output_tokens,
            texts=tuple(texts),
            prefix_share=prefix_share,
            prefix_groups=prefix_groups,
            seed=seed,
        )

    @property
    def shown(self) -> str:
        """For people, in a few words."""
        if self.kind == "texts":
            words = f"{len(self.texts)} given texts, up to {self.output_tokens} out"
        else:
            words = f"{self.kind}, {self.input_tokens} in, {self.output_tokens} out"
        return words + (f", {self.prefix_share:.0%} shared" if self.prefix_share else "")


class WordCost(Value):
    """What a text of the words above costs in a server's tokens."""

    per_word: float = 1.0
    fixed: float = 0.0
    """Chat template and the like, in every request."""
    measured: bool = False

    def words(self, tokens: int) -> int:
        """How many words make a question of about `tokens`."""
        return max(1, round((tokens - self.fixed) / self.per_word))


def fit_cost(short: tuple[int, int], long: tuple[int, int]) -> WordCost:
    """From two questions, as (words, tokens). What cannot be (a longer question that costs no more) is not believed."""
    words, tokens = long[0] - short[0], long[1] - short[1]
    if words <= 0 or tokens <= 0:
        return WordCost()
    per_word = tokens / words
    return WordCost(per_word=per_word, fixed=max(0.0, short[1] - per_word * short[0]), measured=True)


@dataclass(frozen=True, slots=True)
class Question:
    """One request to be sent."""

    number: int
    text: str
    output_tokens: int


def lengths(workload: Workload, number: int) -> tuple[int, int]:
    """Tokens in and out of request `number`. They depend on the seed alone, so two runs ask for the same work."""
    if workload.kind != "mixed":
        return workload.input_tokens, workload.output_tokens
    dice = Dice(_LENGTHS_STREAM, workload.seed, number)
    return _near(workload.input_tokens, dice), _near(workload.output_tokens, dice)


def _near(mean: int, dice: Dice) -> int:
    return max(1, round(mean * (1 + _SPREAD * (2 * dice.share() - 1))))


def mean_output_tokens(workload: Workload, count: int, first: int = 0) -> float:
    """Of `count` requests from `first` on, of a thousand at most."""
    numbers = range(first, first + max(1, min(count, 1000)))
    return sum(lengths(workload, number)[1] for number in numbers) / len(numbers)


def question(workload: Workload, number: int, salt: int = 0, cost: WordCost | None = None) -> Question:
    """Request `number` of a run whose texts are made with `salt`."""
    if workload.kind == "texts":
        return Question(number, workload.texts[number % len(workload.texts)], workload.output_tokens)
    input_tokens, output_tokens = lengths(workload, number)
    words = (cost or WordCost()).words(input_tokens)
    shared = round(words * workload.prefix_share)
    group = number % workload.prefix_groups
    head = _some_words(Dice(_PREFIX_STREAM, workload.seed, salt, group), shared)
    tail = _some_words(Dice(_WORDS_STREAM, workload.seed, salt, number), words - shared)
    return Question(number, " ".join(head + tail), output_tokens)


def plain_question(words: int, salt: int, number: int) -> Question:
    """`words` words with the shortest answer: to learn what words cost."""
    return Question(number, " ".join(_some_words(Dice(_WORDS_STREAM, salt, ~number), words)), 1)


def _some_words(dice: Dice, count: int) -> list[str]:
    drawn = b"".join(dice.bits().to_bytes(8, "little") for _ in range((count + 7) // 8))
    return [_WORDS[byte] for byte in drawn[:count]]
