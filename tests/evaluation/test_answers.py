"""Reading the chosen option out of an answer: a table of answers, read by a person."""

import re
import time

import pytest

from dna_hf.evaluation.answers import parse_answer
from tests.kit.paths import ROOT


OPTIONS = {"A": "Peeling an onion", "B": "Washing a plate.", "C": "Cutting a carrot", "D": "Opening a jar"}

READ = [
    # the letter alone
    ("A", "A", "leading letter"),
    ("A.", "A", "leading letter"),
    (" (A) ", "A", "leading letter"),
    ("[D]", "D", "leading letter"),
    ("B)", "B", "leading letter"),
    ("c", "C", "leading letter"),
    ("(b)", "B", "leading letter"),
    ("**C**", "C", "leading letter"),
    ('"D"', "D", "leading letter"),
    ("Ｄ", "D", "leading letter"),
    ("（A）", "A", "leading letter"),
    ("$\\boxed{B}$", "B", "leading letter"),
    # the letter and something behind it
    ("A: text", "A", "leading letter"),
    ("A) The person peels it.", "A", "leading letter"),
    ("A. Peeling an onion", "A", "leading letter"),
    ("A - the first one", "A", "leading letter"),
    ("A, because of the knife.", "A", "leading letter"),
    ("A because the knife is visible.", "A", "leading letter"),
    ("A\nA person peels an onion.", "A", "leading letter"),
    ("(C) Cutting a carrot", "C", "leading letter"),
    ("C Cutting a carrot", "C", "leading letter"),
    ("D is what the video shows.", "D", "leading letter"),
    ("b) washing", "B", "leading letter"),
    ("B. The person uses an X-ray in a T-shirt.", "B", "leading letter"),
    ("Let me think about it.\nC", "C", "leading letter"),
    ("B.Washing a plate", "B", "leading letter"),
    ("D:it opens", "D", "leading letter"),
    # brackets anywhere
    ("A person cuts a carrot. (C)", "C", "brackets"),
    ("The person (left) is shown in (B) only", "B", "brackets"),
    ("Clearly [D], as the lid comes off.", "D", "brackets"),
    ("It shows 'B'", "B", "brackets"),
    # a statement
    ("The answer is C", "C", "statement"),
    ("The answer is (D).", "D", "statement"),
    ("Answer: A", "A", "statement"),
    ("answer: B.", "B", "statement"),
    ("**Answer:** B", "B", "statement"),
    ("ANSWER - the correct option is A.", "A", "statement"),
    ("The correct choice would be D", "D", "statement"),
    ("The best answer among A, B, C and D is C.", "C", "statement"),
    ("The answer to the question is option B", "B", "statement"),
    ("The answer is A because the person holds a knife.", "A", "statement"),
    ("<answer>C</answer>", "C", "statement"),
    ('{"answer": "C"}', "C", "statement"),
    ("I would choose option D.", "D", "statement"),
    ("I'd go with (A)", "A", "statement"),
    ("B is the correct answer", "B", "statement"),
    ("Option A is wrong, option B is correct.", "B", "statement"),
    # a final statement decides between several letters
    ("A) is possible, (B) too. The answer is C.", "C", "statement"),
    ("The answer is A. Wait, the answer is B.", "B", "statement"),
    ("A. Peeling\nB. Washing\nC. Cutting\nD. Opening\nAnswer: D", "D", "statement"),
    ("The answer is B, and A is wrong", "B", "statement"),
    ("Answer: C, A person cuts a carrot", "C", "statement"),
    # named once, between words
    ("Based on the video, D", "D", "mention"),
    ("Based on the video, A.", "A", "mention"),
    ("I think it is B.", "B", "mention"),
    ("It should be option A.", "A", "mention"),
    ("The person opens a jar, so D", "D", "mention"),
    ("The answer is not (A) but (B).", "B", "brackets"),
    ("Not A. It is C.", "C", "mention"),
    ("It is neither A nor B, so C", "C", "mention"),
    ("(A) can be ruled out and B is wrong. (D)", "D", "brackets"),
    # the text of an option
    ("Cutting a carrot", "C", "option text"),
    ("the person is CUTTING  a\ncarrot.", "C", "option text"),
    ("A person washing a plate is visible", "B", "option text"),
    ("The answer is opening a jar", "D", "option text"),
    ("It is not peeling an onion, it is washing a plate", "B", "option text"),
]

UNREAD = [
    # no letter
    ("", "empty"),
    (" \n ", "empty"),
    ("A person cuts a vegetable.", "no letter"),
    ("A person... cuts", "no letter"),
    ("During the video someone cooks.", "no letter"),
    ("Based on the video, the person cooks.", "no letter"),
    ("Based on the video, A person cooks.", "no letter"),
    ("Cannot be told.", "no letter"),
    ("The answer is A person with a knife.", "no letter"),
    ("Answer: A knife", "no letter"),
    ('A "no entry" sign', "no letter"),
    ("A-level cooking", "no letter"),
    ("B's knife and an X-ray of D-Day", "no letter"),
    ("I think so.", "no letter"),
    ("I'm not sure.", "no letter"),
    ("cutting carrots", "no letter"),
    ("recutting a carrot", "no letter"),
    ("The answer is not (A).", "no letter"),
    ("The answer cannot be B.", "no letter"),
    ("C is wrong.", "no letter"),
    ("C++ code on a screen", "no letter"),
    ("U.S. coins", "no letter"),
    ("D.J. of the kitchen", "no letter"),
    ("I don't think the answer is B.", "no letter"),
    ("It is not cutting a carrot.", "no letter"),
    ("1", "no letter"),
    ("???", "no letter"),
    # several
    ("A or B", "several letters"),
    ("Both A and C", "several letters"),
    ("A, B", "several letters"),
    ("A/D", "several letters"),
    ("The answer is A or B", "several letters"),
    ("Answer: B, C", "several letters"),
    ("A. Peeling\nB. Washing\nC. Cutting\nD. Opening", "several letters"),
    ("(A) comes first, (B) next.", "several letters"),
    ("B. It is not like the first. See (C)", "several letters"),
    ("First peeling an onion, then cutting a carrot", "several texts"),
    # beyond the last option
    ("E", "beyond options"),
    ("(F)", "beyond options"),
    ("The answer is Z.", "beyond options"),
    ("E. None of them", "beyond options"),
]


@pytest.mark.parametrize(("answer", "letter", "rule"), READ)
def test_answers_that_are_read(answer, letter, rule):
    parsed = parse_answer(answer, OPTIONS)
    assert (parsed.letter, parsed.rule) == (letter, rule)


@pytest.mark.parametrize(("answer", "rule"), UNREAD)
def test_answers_that_cannot_be_read(answer, rule):
    parsed = parse_answer(answer, OPTIONS)
    assert (parsed.letter, parsed.rule) == (None, rule)


# what a model wrote while it reasoned is no answer
REASONING = [
    ("<think>A is correct?</think> B", "B"),
    ("<think>A is correct?</think>\n\n**B**", "B"),
    ("A is right, or so.</think>\nB", "B"),
    ("<think>It is A. The answer is A", None),
    ("<thinking>maybe A</thinking>The answer is D.", "D"),
    ("<think>no</think>", None),
    ("<THINK>A</THINK> C", "C"),
    ("<think>A</think> \n<think>C</think> D", "D"),
]

# EgoSchema calls the wearer of the camera C
WEARER = [
    ("C is shopping for groceries", None),
    ("In the video, C picks up items", None),
    ("C was walking around", None),
    ("The video shows that C washes a pan.", None),
    ("C puts the cup down, and then C leaves.", None),
    ("C is in the kitchen", None),
    ("C, who is cooking, walks", None),
    ("C is correct", "C"),
    ("C is the correct answer", "C"),
    ("C is right.", "C"),
    ("C is what the video shows.", "C"),
    ("C", "C"),
    ("C.", "C"),
    ("C because the knife is visible.", "C"),
    ("C matches the video", "C"),
    ("The answer is C because C picks up items", "C"),
    ("C: C picks up items", "C"),
    ("C is wrong.", None),
    ("C is not correct, B is.", "B"),
]

# small letters that end what is said
SMALL = [
    ("Answer: b", "B"),
    ("The correct answer is b.", "B"),
    ("The correct answer is d.", "D"),
    ("answer: c", "C"),
    ("The answer is a.", "A"),
    ("The answer is a person.", None),
    ("Answer: a plate", None),
    ("Answer: b) washing", "B"),
    ("The answer is e.g. a plate", None),
    ("Answer: (d)", "D"),
]

# words right before the letter
SAID = [
    ("It's B.", "B"),
    ("Definitely B!", "B"),
    ("Probably D", "D"),
    ("That's A.", "A"),
    ("Clearly C.", "C"),
    ("It's a plate.", None),
]

# Chinese, Japanese, Korean, German, French, Spanish, Portuguese, Italian
LANGUAGES = [
    ("答案是B", "B"),
    ("答案是 B。", "B"),
    ("答案：B", "B"),
    ("正确答案是D", "D"),
    ("正确答案为C。", "C"),
    ("選 A", "A"),
    ("我选B", "B"),
    ("我选择B。", "B"),
    ("应该选C", "C"),
    ("选项B是正确的", "B"),
    ("B是正确的", "B"),
    ("不是A，是B", "B"),
    ("A或B", None),
    ("B、C", None),
    ("答案是A或B", None),
    ("因此，正确选项为 (D)", "D"),
    ("答案不是A", None),
    ("A不对，选C", "C"),
    ("【答案】B", "B"),
    ("故选B。", "B"),
    ("B。因为这个人在洗盘子", "B"),
    ("答えはBです", "B"),
    ("答えはBです。", "B"),
    ("正解はD", "D"),
    ("正解：C", "C"),
    ("Bが正しいです", "B"),
    ("Bです。", "B"),
    ("Aではない、Bです", "B"),
    ("選択肢Cです", "C"),
    ("答え：(A)", "A"),
    ("AまたはB", None),
    ("Aだと思います", "A"),
    ("정답은 B입니다", "B"),
    ("정답: C", "C"),
    ("답은 D입니다.", "D"),
    ("B가 정답입니다", "B"),
    ("B입니다.", "B"),
    ("A 또는 B", None),
    ("A가 아니라 B입니다", "B"),
    ("답: (A)", "A"),
    ("Die Antwort ist B", "B"),
    ("Die richtige Antwort lautet C.", "C"),
    ("Antwort: D", "D"),
    ("Ich wähle B.", "B"),
    ("Option B ist richtig.", "B"),
    ("Die Antwort ist nicht A, sondern B.", "B"),
    ("A oder B", None),
    ("B ist falsch.", None),
    ("Es ist B.", "B"),
    ("A ist richtig", "A"),
    ("La réponse est B", "B"),
    ("La bonne réponse est la C.", "C"),
    ("Réponse : D", "D"),
    ("Je choisis A.", "A"),
    ("C'est B.", "B"),
    ("La réponse est l'option B.", "B"),
    ("Ce n'est pas A, c'est B.", "B"),
    ("A ou B", None),
    ("B est correcte", "B"),
    ("La réponse n'est pas B.", None),
    ("La respuesta es B", "B"),
    ("La respuesta correcta es la C.", "C"),
    ("Respuesta: D", "D"),
    ("Elijo A.", "A"),
    ("La opción B es la correcta.", "B"),
    ("La respuesta es la opción B", "B"),
    ("No es A, es B.", "B"),
    ("A o B", None),
    ("A una persona le gusta", None),
    ("La respuesta no es B.", None),
    ("A resposta é B", "B"),
    ("Resposta: C", "C"),
    ("La risposta corretta è B", "B"),
    ("Risposta: C", "C"),
    ("A person is shopping", None),
]


@pytest.mark.parametrize(("answer", "letter"), REASONING + WEARER + SMALL + SAID + LANGUAGES)
def test_answers_of_other_kinds(answer, letter):
    parsed = parse_answer(answer, OPTIONS)
    assert parsed.letter == letter
    assert parsed.rule != "beyond options"


EGOSCHEMA = {
    "A": "C shopped carefully",
    "B": "C cooked a meal",
    "C": "C picked up items from the floor",
    "D": "C talked to the man",
}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A. C shopped carefully", "A"),
        ("A. C shops carefully", "A"),
        ("C shopped carefully", "A"),
        ("C picked up items from the floor", "C"),
        ("(C) C picked up items from the floor", "C"),
        ("C", "C"),
        ("C talks to a man", None),
        ("The answer is D. C talked to the man.", "D"),
        ("C is shopping for groceries", None),
        ("C mainly cooked", None),
    ],
)
def test_the_wearer_of_the_camera_in_the_options(answer, letter):
    assert parse_answer(answer, EGOSCHEMA).letter == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("这个人正在削皮。", "B"),
        ("视频中的人在洗碗", "C"),
        ("不是削皮，是洗碗", "C"),
        ("先削皮，后洗碗", None),
    ],
)
def test_texts_of_options_in_a_script_without_spaces(answer, letter):
    options = {"A": "切菜", "B": "削皮", "C": "洗碗", "D": "打开罐子"}
    assert parse_answer(answer, options).letter == letter


# markers of reasoning, doubts, corrections, conditions, what is wrong, several letters, the wearer of the camera
CAREFUL = [
    ("◁think▷The answer is A.◁/think▷ C", "C"),
    ("[THINK]The answer is A.[/THINK] C", "C"),
    ("<seed:think>The answer is A.</seed:think>C", "C"),
    ("<|begin_of_thought|>The answer is A.<|end_of_thought|><|begin_of_solution|>C<|end_of_solution|>", "C"),
    ("<|channel|>analysis<|message|>The answer is A.<|end|><|start|>assistant<|channel|>final<|message|>C", "C"),
    ("<unused94>thought\nThe answer is A.<unused95>C", "C"),
    ("<reflection>The answer is A</reflection> C", "C"),
    ("&lt;think&gt;The answer is A&lt;/think&gt;B", "B"),
    ("◁think▷Maybe A. The answer is A", None),
    ("I don't think it's A.", None),
    ("I don't think C is correct.", None),
    ("I doubt it is A.", None),
    ("I doubt that A is correct.", None),
    ("I will not choose A", None),
    ("I can't choose A", None),
    ("I would never choose A.", None),
    ("You should not choose A", None),
    ("Nobody would choose A", None),
    ("I wouldn't say A", None),
    ("It is unlikely that the answer is A.", None),
    ("It's unclear whether A is correct.", None),
    ("I'm not sure if C is correct.", None),
    ("I disagree that C is correct", None),
    ("The answer is A. Wait, no, it is C.", None),
    ("I first thought the answer is A, but it is C.", None),
    ("At first glance the answer is A, but on closer look it's C.", None),
    ("The answer is A? No, it's C.", "C"),
    ("Answer: A\nCorrection: C", None),
    ("The answer is A... no, C.", "C"),
    ("If the person had a knife, the answer would be C, but there is none, so B.", None),
    ("If the answer is A, there would be a knife.", None),
    ("One might think the answer is A.", None),
    ("Some would choose A", None),
    ("The question asks whether A is correct", None),
    ("Is the answer C?", None),
    ("C?", None),
    ("Someone said the answer is C, which is wrong.", None),
    ("The user says C is correct, but it is B.", "B"),
    ("The wrong answer is C", None),
    ("Wrong answer: C", None),
    ("The only wrong option is C.", None),
    ("The least likely is C", None),
    ("The answer that doesn't fit is C", None),
    ("Not the answer: C", None),
    ("Incorrect: C", None),
    ("Eliminated: C", None),
    ("Rejected: C", None),
    ("All but C", None),
    ("It's anything but C.", None),
    ('{"wrong": "A"}', None),
    ("C. Wrong", None),
    ("C) incorrect", None),
    ("C ❌", None),
    ("C: no", None),
    ("C - no", None),
    ("C, however, is wrong", None),
    ("~~C~~", None),
    ("A is far from correct", None),
    ("A is hardly correct", None),
    ("A is never correct", None),
    ("A is less likely", None),
    ("A不是正确答案", None),
    ("A or C is correct", None),
    ("Either A or C is correct", None),
    ("A, B or C is right", None),
    ("Not only A but also C is correct", None),
    ("C or D is the answer", None),
    ("Neither A nor B nor D is right.", None),
    ("Answer: B;D", None),
    ("Answer: (B) (D)", None),
    ("The answer is A or possibly C", None),
    ("The answer is A (or C)", None),
    ("The answer is A as well as C", None),
    ("a) Peeling an onion b) Washing a plate", None),
    ("C, a man", None),
    ("C and a man", None),
    ("C (the camera wearer) is seen", None),
    ("C – the camera wearer – walks", None),
    ("The camera wearer, C, opens", None),
    ("The camera wearer (C) cuts", None),
    ("The camera wearer is C.", None),
    ("The main character is C.", None),
    ("C is right-handed", None),
    ("C正在购物。", None),
    ("Cさんは料理", None),
    ("#C C opens a jar", None),
    ("no one is opening a jar", None),
    ("A+", None),
    ("C++", None),
    ("D&D", None),
    ("\\boxed{\\mathbf{C}}", "C"),
    ("\\boxed{Washing a plate}", "B"),
    ("<b>C</b>", "C"),
    ("The answer is C", "C"),
    ("I choose B because it is not A.", "B"),
    ("So the answer is (D).", "D"),
    ("No doubt it's C.", "C"),
    ("B. The person is not peeling.", "B"),
]


@pytest.mark.parametrize(("answer", "letter"), CAREFUL)
def test_letters_that_are_named_but_not_chosen(answer, letter):
    options = dict(
        zip("ABCD", ["Peeling an onion", "Washing a plate", "Cutting a carrot", "Opening a jar"], strict=True)
    )
    assert parse_answer(answer, options).letter == letter


@pytest.mark.parametrize(
    ("answer", "texts", "letter"),
    [
        ("I have no idea", ["Yes", "No"], None),
        ("There is no person", ["Yes", "No"], None),
        ("Yes, he does", ["Yes", "No"], "A"),
        ("No.", ["Yes", "No"], "B"),
        ("The answer is yes.", ["Yes", "No"], "A"),
        ("You're right", ["left", "right"], None),
        ("The right answer is", ["left", "right"], None),
        ("The person left the room", ["left", "right"], None),
        ("left is wrong", ["left", "right"], None),
        ("left", ["left", "right"], "A"),
        ("It is right.", ["left", "right"], "B"),
        ("1. The person opens the door", ["1", "2", "3", "4"], None),
        ("Step 1: look", ["1", "2", "3", "4"], None),
        ("2.5", ["1", "2", "3", "4"], None),
        ("In 2 seconds, he goes", ["1", "2", "3", "4"], None),
        ("-3", ["1", "2", "3", "4"], None),
        ("3", ["1", "2", "3", "4"], "C"),
        ("The answer is 2.", ["1", "2", "3", "4"], "B"),
        ("without moving up", ["Moving up", "Moving down"], None),
        ("instead of moving up, it goes sideways", ["Moving up", "Moving down"], None),
        ("It stopped moving up", ["Moving up", "Moving down"], None),
        ("It is hardly moving up", ["Moving up", "Moving down"], None),
        ("moving down", ["Moving up", "Moving down"], "B"),
    ],
)
def test_texts_that_are_words_of_many_sentences(answer, texts, letter):
    assert parse_answer(answer, dict(zip("ABCD", texts, strict=False))).letter == letter


@pytest.mark.parametrize("piece", ["not ", "if A ", "A, ", "(A) ", "<think>", "x", "not a b c d e ", "the answer is "])
def test_long_answers_are_read_in_time(piece):
    start = time.process_time()
    parse_answer(piece * (20_000 // len(piece)), OPTIONS)
    assert time.process_time() - start < 10


FORMS = [
    "{}", "({})", "{}.", "{}: it is", "{}) it is", "It shows it. ({})", "The answer is {}.", "answer: ({})",
    "Based on the video, {}", "I choose {}.", "({}) is correct", "It must be {}",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_letter_in_every_form(form):
    # "I" too, of nine options
    options = {letter: f"text number {letter}{letter}" for letter in "ABCDEFGHI"}
    for letter in options:
        assert parse_answer(form.format(letter), options).letter == letter
        fewer = {other: text for other, text in options.items() if other < letter}
        assert parse_answer(form.format(letter), fewer).rule == "beyond options"


@pytest.mark.parametrize(
    ("answer", "letter"),
    {
        "It is rich in vitamin A.": "B",
        "Vitamin D": "A",
        "Both A and B": "C",
        "The answer is Both A and B. (C)": "C",
        "None (E)": "D",
    }.items(),
)
def test_letters_inside_of_an_option_name_nothing(answer, letter):
    options = {"A": "Vitamin D", "B": "Vitamin A", "C": "Both A and B", "D": "None (E)"}
    assert parse_answer(answer, options).letter == letter


def test_texts_that_contain_each_other():
    options = {"A": "cut", "B": "cut a carrot", "C": "Cut a carrot."}
    assert parse_answer("They cut it", options).letter == "A"
    assert parse_answer("cut a carrot", options).rule == "several texts"
    assert parse_answer("cut a carrot", {"A": "cut", "B": "cut a carrot"}).letter == "B"
    assert parse_answer("cut, then cut a carrot", {"A": "cut", "B": "cut a carrot"}).rule == "several texts"


def test_texts_of_one_letter_or_none():
    options = {"A": "B", "B": "A", "C": "?"}
    assert parse_answer("A", options).letter == "A" and parse_answer("What?", options).rule == "no letter"
    assert parse_answer("2", {"A": "1", "B": "2"}).letter == "B"
    assert parse_answer("No, not this", {"A": "Yes", "B": "No"}).letter == "B"


def test_the_table_of_the_document_is_true():
    page = (ROOT / "docs" / "video_llm_evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| ([A-D]|–) \| .+ \|$", page, re.MULTILINE)
    assert len(rows) == 15
    for answers, letter in rows:
        for answer in re.findall(r"`([^`]+)`", answers):
            assert (parse_answer(answer, OPTIONS).letter or "–") == letter, answer
