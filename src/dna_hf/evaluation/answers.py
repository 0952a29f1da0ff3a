"""Read the chosen option out of the free answer of a language model, without a judge.

A letter counts only where it can hardly be anything else: at the start of a line, in brackets, behind "the answer is",
behind a comma or a colon. The article of "A person ..." and the first letter of "During ..." name no option, nor does
the C that EgoSchema calls the wearer of the camera by: "C picks up a cup". What a model wrote while it reasoned
(`<think>...</think>`) is no answer. What cannot be read is reported as such; nothing is guessed.

The words are those of [`~dna_hf.evaluation.answer_words`], in several languages.
"""

import html
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
    r"|C[ ]*[,(–-]+[ ]*(?:a|an|the|who)\b|C[ ]+and[ ]+(?:a|an|the)\b|C[ ]+is[ ]+right-"
    r"|C[ ]*(?:正在|さん)"
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
        rf"(?P<letter>{_BARE})|(?P<list>{_BARE})(?={_AND}{_LETTER}|[):])|(?P<small>(?<![\w(.])[a-z])(?=\))"
    ),
}
# several letters of which none is chosen
_SEVERAL = "\ufffb"
_LIST = re.compile(
    rf"{_LETTER}(?:[ ]*\(?(?:{_AND}|[ ]*;[ ]*|[ ]+(?:as well as|or possibly|but also|nor)[ ]+){_LETTER})+"
    rf"|{_BRACKETED}(?:[ ]*{_BRACKETED})+"
)
_LETTERS = rf"(?:{_LETTER}|{_SEVERAL})"
# doubts, conditions, what others say and what is wrong: up to the end of their clause they choose no letter
_DOUBT = re.compile(
    r"(?i:(?:\b(?:not|cannot|never|neither|nobody|no one|(?<!no )(?<!without )doubt|unlikely|unclear|disagree|whether|"
    r"if|unless|someone|somebody|the user|one might|some (?:people|would|might|may)|wrong|incorrect|eliminated?|"
    r"rejected?|ruled out|(?<!at )least|worst|all but|anything but|camera wearer|main character|protagonist)\b|n't\b))"
    rf"(?:(?!\bbut\b)[^.;!?,\n]|,[ ]+(?=C\b)){{0,80}}?{_LETTERS}"
)
_VERDICT = re.compile(
    rf"{_LETTERS}[ ]*[).:,–-]*[ ]*(?i:(?:however,?[ ]+)?(?:(?:is|are)[ ]+)?"
    r"(?:wrong|incorrect|false|no\b|far from|hardly|never|less))"
    rf"|{_LETTERS}[ ]*[❌✗✘]|{_LETTERS}\)?[ ]*\?"
)
_CORRECTED = re.compile(r"(?i:\b(?:wait|actually|no|correction|but|however|rather|instead|closer)\b)")
_NEGATED = re.compile(rf"{any_of('denied')}[ ]*{_FILLER}{_LETTER}|{_LETTER}[ ]*{any_of('wrong')}")
_WHOLE = re.compile(r"[^\w+&]*(?P<letter>[A-Za-z])[^\w+&?❌✗✘]*")
# what a model writes before it answers; the tag that opens may have been part of the prompt
_THOUGHT = r"(?:\w+:)?(?:think|thinking|thought|begin_of_thought|reasoning|reflection|analysis|scratchpad)"
_REASONING = re.compile(
    rf"(?is)[<◁\[]\|?{_THOUGHT}\|?[>▷\]].*?(?:[<◁\[]\|?(?:/{_THOUGHT}|end_of_thought)\|?[>▷\]]|$)"
    r"|<unused94>thought.*?(?:<unused95>|$)|^.*<\|channel\|>final<\|message\|>|<\|channel\|>analysis<\|message\|>.*$"
)
_END_OF_REASONING = re.compile(rf"(?is)^.*[<◁\[]\|?(?:/{_THOUGHT}|end_of_thought)\|?[>▷\]]")
_MARKERS = re.compile(r"<\|\w+\|>")
# before the text of an option that is denied
_DENIES = re.compile(
    r"(?i:(?:\bnot|n't|\bwithout|\binstead of|\brather than|\bstop(?:s|ped)?|\bhardly|\bnever|\bno one(?: is)?|"
    r"\bnobody(?: is)?|\bnicht|\bpas)\s*|(?:不是|没有|不)\s*)$"
)
# texts of options that are words of many sentences
_COMMON = {
    "yes",
    "no",
    "left",
    "right",
    "true",
    "false",
    "up",
    "down",
    "on",
    "off",
    "in",
    "out",
    "none",
    "all",
    "both",
}
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
    answer = html.unescape(answer)
    text = _clean(_MARKERS.sub(" ", _END_OF_REASONING.sub("", _REASONING.sub("", answer))))
    if not text:
        return ParsedAnswer(None, "empty")
    if whole := _WHOLE.fullmatch(text):
        return _known(whole["letter"].upper(), "leading letter", options)
    text, chosen = _without_texts(text, options)
    text = _LIST.sub(f" {_SEVERAL} ", _NEGATED.sub(" ", text))
    text = _DOUBT.sub(" ", _VERDICT.sub(" ", text))
    statements = [match for pattern in _STATEMENTS for match in pattern.finditer(text)]
    if statements:
        last = max(statements, key=lambda match: match.start("letter"))
        letter, rest = _letter(last["letter"]), text[last.end() :]
        others = {other for other, _ in _mentions(rest)} - {letter}
        if others and _CORRECTED.search(rest):
            return ParsedAnswer(None, "several letters")
        return _known(letter, "statement", options)
    mentions = list(_mentions(text))
    if len({letter for letter, _ in mentions}) > 1 or _SEVERAL in text:
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
    text = re.sub(r"~~.*?~~|#C\b|</?(?:b|i|u|em|strong|mark|p|span|br|ans)\b[^>]*>", " ", text)
    text = re.sub(r"\\boxed\{\s*(?:\\(?:text|mathbf|textbf|mathrm)\{)?\s*([A-Za-z])\s*\}+", r"(\1)", text)
    text = re.sub(r"\\boxed\{([^{}]*)\}", r"\1", text)
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
        found = re.compile(words, re.IGNORECASE)
        if any(_is_chosen(text, match, option) for match in found.finditer(text)):
            chosen += letters[option]
        text = re.sub(words, _TEXT, text, flags=re.IGNORECASE)
    return text, chosen


def _is_chosen(text: str, match: re.Match[str], option: str) -> bool:
    """Whether the text of an option says that it is the one: not denied, and no common word among others."""
    if _DENIES.search(text[: match.start()]):
        return False
    before, after = text[: match.start()].strip(), text[match.end() :].strip()
    begins, ends = not before.strip("(\"'"), not after.strip(".!)\"'")
    said = before.lower().endswith((" is", ":", " be"))
    if option.isdigit():
        return ends and (begins or said)
    return option not in _COMMON or (begins and (ends or after[0] in ",.!;:\n")) or (ends and said)


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
