"""Read the chosen option out of the free answer of a language model, without a judge.

A letter counts only where it can hardly be anything else: at the start of a line, in brackets, behind "the answer is",
behind a comma or a colon. The article of "A person ..." and the first letter of "During ..." name no option, nor does
the C that EgoSchema calls the wearer of the camera by: "C picks up a cup". What a model wrote while it reasoned
(`<think>...</think>`) is no answer. What cannot be read is reported as such; nothing is guessed.

The words are those of [`~dna_hf.evaluation.answer_words`], in several languages.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .answer_words import any_of


# stands for the text of an option, whose own letters name nothing
_TEXT = "\ufffc"
# of a word; scripts without spaces between words have no articles
_LATIN = "\\d_A-Za-z\u00c0-\u024f"
# a capital letter alone: no part of a word, of "X-ray", "A's", "C++", "U.S." or "E.g."
_ALONE = r"(?<![\w'-])(?<!\b[A-Z]\.)[A-Z](?!['-]?\w|\+|\.\w\b)"
# before a word, "A" is the article and "I" the pronoun
_GOES_ON = rf"(?:{any_of('both')}|(?:is|was|because|since|as|but|ist|lautet|est|es|è|é|weil|car|porque)\b)"
_ARTICLE = rf"A[ ]+(?!{_GOES_ON})[{_LATIN}\"{_TEXT}]"
_PRONOUN = rf"I(?:[ ]+[{_LATIN}{_TEXT}]|')"
# before a verb, "C" is the wearer of the camera; an option is correct, matches, or stands before a reason
_WEARER = (
    r"C[ ]+(?:(?:is|was)(?![ ]+(?:not|wrong|incorrect|false|ruled|excluded|(?:the[ ]+)?(?:most[ ]+|clearly[ ]+)?"
    r"(?:correct|right|best|true|likely|only|one|answer|option|choice)|what|my)\b)"
    rf"|(?!{_GOES_ON}|(?:seems|looks|matches|fits|describes|for|here|too|can|cannot)\b)[a-z])"
    r"|C,[ ]who\b"
)
_BARE = rf"(?!{_ARTICLE}|{_PRONOUN}|{_WEARER}){_ALONE}"
_BRACKETED = r"(?<!\w)[(\[][ ]*[A-Za-z][ ]*[)\]]"
_LETTER = rf"(?:{_BRACKETED}|{_BARE})"
# a small letter that ends what is said
_SMALL = r"(?<![\w'-])[a-z](?=[ ]*(?:[.)\],;:!?\"]+(?:\s|$)|$|\n))"
# "B or C" and "A, B" decide nothing
_AND = rf"\s*(?:,|/|&|{any_of('both')})+\s*(?:(?:or|and|option)\s+)*"
_ONE = rf"(?P<letter>{_LETTER}|{_SMALL})(?!\)?{_AND}{_LETTER})"
_FILLER = rf"(?:{any_of('filler')}[ ]*)*"
_COPULA = any_of("copula")

_STATEMENTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:{any_of('answer')})[^.;:!?\n]{{0,80}}?{_COPULA}[ ]*:?\s*{_FILLER}{_ONE}",
        rf"(?i:\b(?:option|choice|selection)|{any_of('answer')})[\"']?\s*[:=>]+\s*{_FILLER}{_ONE}",
        rf"{any_of('choose')}[ ]*{_FILLER}(?P<letter>{_LETTER})(?!\)?{_AND}{_LETTER})",
        rf"(?P<letter>{_LETTER})(?!\)?{_AND}{_LETTER})[ ]*{any_of('right')}",
    )
)
# the names are what a prediction is recorded with
_MENTIONS = {
    "leading letter": re.compile(rf"(?m:^[^\w\n]*)(?P<letter>{_LETTER}|[a-z](?=\)))"),
    "brackets": re.compile(rf"(?P<letter>{_BRACKETED})"),
    "mention": re.compile(
        r"(?:[.,:;!?/&–—-]\s*|(?i:\b(?:it's|that's|think|guess|so|thus|therefore|but|sondern|mais|sino|mas|ma)\s+)"
        rf"|(?:{any_of('filler')}|{_COPULA}|{any_of('both')})\s*)"
        rf"(?P<letter>{_BARE})|(?P<list>{_BARE})(?={_AND}{_LETTER}|[):])"
    ),
}
_NEGATED = re.compile(rf"{any_of('denied')}[ ]*{_FILLER}{_LETTER}|{_LETTER}[ ]*{any_of('wrong')}")
_WHOLE = re.compile(r"\W*(?P<letter>[A-Za-z])\W*")
# what a model writes before it answers; the tag that opens may have been part of the prompt
_REASONING = re.compile(r"(?is)<(think|thinking|thought|reasoning|analysis|scratchpad)>.*?(?:</\1>|$)")
_END_OF_REASONING = re.compile(r"(?is)^.*</(?:think|thinking|thought|reasoning|analysis|scratchpad)>")
# scripts that put no spaces between words
_UNSPACED = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\u3400-\u4dbf"


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer says.

    Args:
        letter: letter of the chosen option; `None` where the answer does not tell.
        rule: rule that decided. With a letter: `statement`, `leading letter`, `brackets`, `mention` or `option text`.
            Without one: `empty`, `no letter`, `several letters`, `several texts` or `beyond options`.
    """

    letter: str | None
    rule: str


def parse_answer(answer: str, options: Mapping[str, str]) -> ParsedAnswer:
    """Read which option an answer chooses.

    The last statement ("the answer is C", "I choose C", "C is correct") decides. Without one, the answer must name one
    letter alone; without any letter, it must contain the text of one option alone, whatever its case.

    Args:
        answer: the answer as the model wrote it.
        options: capital letter of each option -> its text.
    """
    text = _clean(_END_OF_REASONING.sub("", _REASONING.sub("", answer)))
    if not text:
        return ParsedAnswer(None, "empty")
    if whole := _WHOLE.fullmatch(text):
        return _known(whole["letter"].upper(), "leading letter", options)
    text, chosen = _without_texts(text, options)
    text = _NEGATED.sub(" ", text)
    statements = [match for pattern in _STATEMENTS for match in pattern.finditer(text)]
    if statements:
        last = max(statements, key=lambda match: match.start("letter"))
        return _known(_letter(last["letter"]), "statement", options)
    mentions = list(_mentions(text))
    if len({letter for letter, _ in mentions}) > 1:
        return ParsedAnswer(None, "several letters")
    if mentions:
        return _known(*mentions[0], options)
    if len(chosen) > 1:
        return ParsedAnswer(None, "several texts")
    return ParsedAnswer(chosen[0], "option text") if chosen else ParsedAnswer(None, "no letter")


def _clean(text: str) -> str:
    """Text without markup, with plain quotes and brackets, and single letters in quotes in brackets instead."""
    text = unicodedata.normalize("NFKC", text).translate(str.maketrans("“”‘’。「」『』【】", '""\'\'."""" :'))
    text = re.sub(rf"(?<=[{_UNSPACED}])(?=[A-Za-z])|(?<=[A-Za-z])(?=[{_UNSPACED}])", " ", text)
    text = re.sub(r"\\boxed\{\s*(?:\\text\{)?\s*([A-Za-z])\s*\}*", r"(\1)", text)
    text = re.sub(r"[*`$#~_]+", "", text)
    text = re.sub(r"(?<!\w)[\"']([A-Za-z])[\"'](?!\w)", r"(\1)", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _without_texts(text: str, options: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with the texts of options blotted out, and the letters of those that it affirms."""
    letters: dict[str, list[str]] = {}
    for letter, option in options.items():
        letters.setdefault(_clean(option).rstrip(" .!?;,").lower(), []).append(letter)
    chosen: list[str] = []
    # the longest first: "cut" is not chosen by an answer that says "cut a carrot"
    for option in sorted(letters, key=len, reverse=True):
        # an option whose text is one letter cannot be told from the letter of another one
        if re.fullmatch(r"\W*|[a-z]", option):
            continue
        words = _edge(option[0], before=True) + r"\s+".join(map(re.escape, option.split())) + _edge(option[-1])
        if re.search(rf"(?<!\bnot )(?<!n't )(?<!不是)(?<!没有)(?<!\bnicht )(?<!\bpas ){words}", text, re.IGNORECASE):
            chosen += letters[option]
        text = re.sub(words, _TEXT, text, flags=re.IGNORECASE)
    return text, chosen


def _edge(character: str, *, before: bool = False) -> str:
    """Where a text begins or ends: no part of a word, in scripts that have spaces between words."""
    if re.match(f"[{_UNSPACED}]", character):
        return ""
    return r"(?<!\w)" if before else r"(?!\w)"


def _mentions(text: str) -> Iterator[tuple[str, str]]:
    """Letters that a text names, each with the rule that found it."""
    for rule, pattern in _MENTIONS.items():
        for match in pattern.finditer(text):
            yield _letter(match[match.lastgroup or 0]), rule


def _letter(found: str) -> str:
    return found.strip("()[] ").upper()


def _known(letter: str, rule: str, options: Mapping[str, str]) -> ParsedAnswer:
    return ParsedAnswer(letter, rule) if letter in options else ParsedAnswer(None, "beyond options")
