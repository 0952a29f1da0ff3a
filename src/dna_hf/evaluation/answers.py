"""Read the chosen option out of the free answer of a language model, without a judge.

A letter counts only where it can hardly be anything else: at the start of a line, in brackets, behind "the answer is",
behind a comma or a colon. The article of "A person ..." and the first letter of "During ..." name no option. What
cannot be read is reported as such; nothing is guessed.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


# stands for the text of an option, whose own letters name nothing
_TEXT = "\ufffc"
# a capital letter alone: no part of a word, of "X-ray", "A's", "C++", "U.S." or "E.g."
_ALONE = r"(?<![\w'-])(?<!\b[A-Z]\.)[A-Z](?!['-]?\w|\+|\.\w\b)"
# before a word, "A" is the article and "I" the pronoun
_ARTICLE = rf"A[ ]+(?!(?:or|and|is|was|because|since|as|but)\b)[\w\"{_TEXT}]"
_PRONOUN = rf"I(?:[ ]+[\w{_TEXT}]|')"
_BARE = rf"(?!{_ARTICLE}|{_PRONOUN}){_ALONE}"
_BRACKETED = r"(?<!\w)[(\[][ ]*[A-Za-z][ ]*[)\]]"
_LETTER = rf"(?:{_BRACKETED}|{_BARE})"
# "B or C" and "A, B" decide nothing
_AND = r"\s*(?:,|/|&|\bor\b|\band\b)+\s*(?:(?:or|and|option)\s+)*"
_ONE = rf"(?P<letter>{_LETTER})(?!\)?{_AND}{_LETTER})"
_ADVERB = r"(?i:(?:(?:most|likely|probably|clearly|definitely|therefore|thus|option|choice|letter|answer)[ ]+)*)"
_NOUN = r"(?i:\b(?:answer|(?:correct|right|best|final|likely)[ ]+(?:option|choice|selection|letter))\b)"

_STATEMENTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_NOUN}[^.;:!?\n]{{0,80}}?(?i:\b(?:is|be))\b[ ]*:?\s*{_ADVERB}{_ONE}",
        rf"(?i:\b(?:answer|option|choice|selection))[\"']?\s*[:=>]+\s*{_ADVERB}{_ONE}",
        rf"(?i:\b(?:choose|select|pick|go with|say))[ ]+{_ADVERB}{_ONE}",
        rf"{_ONE}[ ]+(?:is|seems|looks)[ ]+(?:the[ ]+)?(?:most[ ]+likely[ ]+)?(?:correct|right|best|true|answer)\b",
    )
)
# the names are what a prediction is recorded with
_MENTIONS = {
    "leading letter": re.compile(rf"(?m:^[^\w\n]*)(?P<letter>{_LETTER}|[a-z](?=\)))"),
    "brackets": re.compile(rf"(?P<letter>{_BRACKETED})"),
    "mention": re.compile(
        rf"(?:[.,:;!?/&–—-]\s*|(?i:\b(?:is|be|option|choice|answer|letter|or|and|think|guess|so|thus|therefore)\s+))"
        rf"(?P<letter>{_BARE})|(?P<list>{_BARE})(?={_AND}{_LETTER}|[):])"
    ),
}
_NEGATED = re.compile(
    r"(?i:(?:\bnot|\bcannot|n't|\bneither|\bnor|\brather than|\binstead of)[ ]+"
    r"(?:be[ ]+|(?:think|believe)[^.;!?\n]{0,40}?\bis[ ]+)?)"
    rf"{_ADVERB}{_LETTER}"
    rf"|{_LETTER}[ ]+(?:is|was|can be)(?:[ ]+(?:not\b|wrong|incorrect|false|ruled out|excluded)|n't)"
)
_WHOLE = re.compile(r"\W*(?P<letter>[A-Za-z])\W*")


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
    text = _clean(answer)
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
    text = unicodedata.normalize("NFKC", text).translate(str.maketrans("“”‘’", "\"\"''"))
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
        words = r"(?<!\w)" + r"\s+".join(map(re.escape, option.split())) + r"(?!\w)"
        if re.search(rf"(?<!\bnot )(?<!n't ){words}", text, re.IGNORECASE):
            chosen += letters[option]
        text = re.sub(words, _TEXT, text, flags=re.IGNORECASE)
    return text, chosen


def _mentions(text: str) -> Iterator[tuple[str, str]]:
    """Letters that a text names, each with the rule that found it."""
    for rule, pattern in _MENTIONS.items():
        for match in pattern.finditer(text):
            yield _letter(match[match.lastgroup or 0]), rule


def _letter(found: str) -> str:
    return found.strip("()[] ").upper()


def _known(letter: str, rule: str, options: Mapping[str, str]) -> ParsedAnswer:
    return ParsedAnswer(letter, rule) if letter in options else ParsedAnswer(None, "beyond options")
