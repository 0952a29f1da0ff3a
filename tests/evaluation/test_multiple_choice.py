"""Multiple-choice questions through a tiny model, its real processor and videos; figures against numbers by hand."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from dna_hf.cli import main
from dna_hf.data.errors import DataError
from dna_hf.data.multiple_choice import load_questions
from dna_hf.evaluation import multiple_choice
from dna_hf.evaluation.multiple_choice import (
    PROMPT,
    AnsweredQuestion,
    AnswerSettings,
    accuracy_table,
    evaluate_questions,
    export_choices,
    multiple_choice_metrics,
    question_prompt,
    reparse,
    write_table,
)
from dna_hf.evaluation.predictions_file import PredictionsFile, write_predictions
from dna_hf.kinds import VIDEO_LLM, load
from dna_hf.models import video_processing_dna_video_llama3 as video_processing
from tests.kit.taught_video_llm import OPTIONS, ask, tiny_video_llm, train, write_colours


SHORT = AnswerSettings(max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def answers(folder):
    """Questions and what the model is taught to answer: right, right, nothing that can be read, wrong."""
    return [
        (ask(folder, "red.mp4", answer="A", category="paint", view="ego"), "(A) red"),
        (ask(folder, "red.png", answer="A", category="picture", view="exo"), "A person"),
        (ask(folder, "blue.mp4", answer="B", category="paint", view="ego"), "The answer is B."),
        (ask(folder, "red.mp4", "What is not?", id="not", answer="C", category="paint", view="exo"), "It is B"),
    ]


@pytest.fixture(scope="module")
def taught(answers):
    model, processor = tiny_video_llm()
    train(model, processor, answers)
    return model, processor


@pytest.fixture
def questions(answers):
    return [question for question, _ in answers]


@pytest.fixture(scope="module")
def checkpoint(taught, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in taught:
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_are_read_and_counted(taught, answers, questions, batch_size):
    result = evaluate_questions(*taught, questions, replace(SHORT, batch_size=batch_size))
    assert [(each.id, each.answer) for each in result.predictions] == [(q.id, answer) for q, answer in answers]
    assert [(each.letter, each.rule, each.correct) for each in result.predictions] == [
        ("A", "leading letter", True),
        (None, "no letter", False),
        ("B", "statement", True),
        ("B", "mention", False),
    ]
    assert result.metrics == {
        "overall_ego": 1.0,
        "average_ego": 1.0,
        "overall_exo": 0.0,
        "average_exo": 0.0,
        "overall": 0.5,
        "average": pytest.approx((2 / 3 + 0) / 2),
        "questions": 4,
        "unparsed": 1,
    }
    assert not result.unreadable


def test_second_chance_is_the_most_likely_letter(taught, answers, questions):
    model, processor = taught
    result = evaluate_questions(model, processor, questions, replace(SHORT, second_chance="likelihood", batch_size=4))
    # by the model and processor alone
    question = questions[1]
    content = [{"type": "image", "image": question.media}, {"type": "text", "text": question_prompt(question)}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    letters = {letter: logits[processor.tokenizer.convert_tokens_to_ids(letter)].item() for letter in OPTIONS}
    chance = result.predictions[1]
    assert (chance.letter, chance.rule, chance.unparsed) == (max(letters, key=letters.get), "likelihood", True)
    assert chance.answer == answers[1][1]
    assert result.metrics["unparsed"] == 1 and result.metrics["second_chance"] == 1
    assert [each.rule for each in result.predictions].count("likelihood") == 1


def test_a_checkpoint_answers_the_same(taught, checkpoint, questions):
    loaded = load(checkpoint, wanted=(VIDEO_LLM,), device="cpu")
    found = evaluate_questions(loaded.model, loaded.processor, questions, SHORT)
    assert found == evaluate_questions(*taught, questions, SHORT)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_video_is_decoded_once(taught, folder, monkeypatch, batch_size):
    decoded = []
    decode = video_processing.decode_video
    monkeypatch.setattr(
        video_processing, "decode_video", lambda source, *others: decoded.append(source) or decode(source, *others)
    )
    names = ["red.mp4", "blue.mp4", "red.mp4", "red.mp4", "blue.mp4"]
    mixed = [ask(folder, name, id=str(number)) for number, name in enumerate(names)]
    result = evaluate_questions(*taught, mixed, replace(SHORT, batch_size=batch_size, max_new_tokens=2))
    assert [each.id for each in result.predictions] == ["0", "1", "2", "3", "4"]
    assert [Path(name).name for name in decoded] == ["blue.mp4", "red.mp4"]


def test_fps_and_frames_reach_the_model(taught, folder, tmp_path):
    model, processor = taught
    question = [ask(folder, "red.mp4")]
    seen = []
    hook = model.model.vision_model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].tolist()))
    try:
        for settings in ({}, {"fps": 2}, {"fps": 2, "max_frames": 3}, {"max_visual_tokens": 2}):
            evaluate_questions(model, processor, question, AnswerSettings(max_new_tokens=1, **settings))
    finally:
        hook.remove()
    # two seconds of 16x24 pixels, 8x8 a token; 8 tokens shared by 2, 4 and 3 frames, 2 by 2
    assert seen == [[[2, 2, 4]], [[4, 2, 2]], [[3, 2, 2]], [[2, 2, 2]]]
    assert processor.video_processor.fps == 1, "the processor of the caller is left alone"


def test_the_mode_of_the_model_is_left_as_it_was(taught, questions):
    model, processor = taught
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    try:
        evaluate_questions(model, processor, questions[:1], SHORT)
        assert model.training
        with pytest.raises(DataError):
            evaluate_questions(model, processor, [replace(questions[0], media="none.mp4")], SHORT)
        assert model.training
    finally:
        model.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_videos_that_cannot_be_read(taught, questions, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    mixed = [questions[0], replace(questions[0], id="broken", media=str(broken)), questions[2]]
    with pytest.raises(DataError, match=r"question 'broken': cannot read video '.*broken.mp4': invalid data"):
        evaluate_questions(*taught, mixed, replace(SHORT, batch_size=3))
    result = evaluate_questions(*taught, mixed, replace(SHORT, batch_size=3), on_error="skip")
    assert [each.answer for each in result.predictions] == ["(A) red", "The answer is B."]
    assert result.metrics["questions"] == 2 and result.metrics["overall"] == 1.0
    assert [each["id"] for each in result.unreadable] == ["broken"]
    with pytest.raises(DataError, match="no question can be asked; the first: cannot read video"):
        evaluate_questions(*taught, mixed[1:2], SHORT, on_error="skip")


def test_questions_that_cannot_be_asked(taught, questions):
    with pytest.raises(DataError, match="some of the questions have the same id"):
        evaluate_questions(*taught, [questions[0], replace(questions[1], id=questions[0].id)], SHORT)
    with pytest.raises(DataError, match="there is no question to ask"):
        evaluate_questions(*taught, [], SHORT)
    with pytest.raises(DataError, match="on_error is 'ignore': choose raise or skip"):
        evaluate_questions(*taught, questions, SHORT, on_error="ignore")


def test_predictions_are_continued(taught, answers, questions, tmp_path):
    file = tmp_path / "deep" / "predictions.jsonl"
    whole = evaluate_questions(*taught, questions, SHORT, predictions=file)
    lines = file.read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    assert len(lines) == 4 and rows["red.png"] == {
        "id": "red.png",
        "answer": "A person",
        "letter": None,
        "rule": "no letter",
        "truth": "A",
        "category": "picture",
        "view": "exo",
        "unparsed": True,
        "correct": False,
        "language": None,
        "question": "What is shown?",
        "options": OPTIONS,
        "media": "red.png",
        "start": None,
        "end": None,
    }
    with pytest.raises(DataError, match="predictions.jsonl' exists: continue it with resume"):
        evaluate_questions(*taught, questions, SHORT, predictions=file)
    # killed in the middle of a line; what is there is not asked again
    first = json.dumps(json.loads(lines[0]) | {"answer": "from before"})
    file.write_text(first + "\n" + lines[1][:20])
    resumed = evaluate_questions(*taught, questions, replace(SHORT, batch_size=2), predictions=file, resume=True)
    kept = json.loads(lines[0])["id"]
    assert [each.answer for each in resumed.predictions] == [
        "from before" if question.id == kept else answer for question, answer in answers
    ]
    assert resumed.metrics == whole.metrics
    assert len(file.read_text().splitlines()) == 4
    again = evaluate_questions(*taught, questions, SHORT, predictions=file, resume=True)
    assert again == resumed and len(file.read_text().splitlines()) == 4


def test_answers_in_any_characters_are_continued(tmp_path):
    # what Python, but not JSON, takes for the end of a line, and a character that the end of a run cut
    line = written(tmp_path, answer="one\u2028two\x85three\u2029(B)").read_text()
    answered = json.loads(line) | {"correct": False}
    line = json.dumps(answered, ensure_ascii=False) + "\n"
    cut = json.dumps(answered | {"id": "2", "answer": "答"}, ensure_ascii=False).encode()
    cut = cut[: cut.index("答".encode()) + 2]
    path = tmp_path / "answers.jsonl"
    PredictionsFile(path, {"fps": 1}).read(resume=False)
    path.write_bytes(b"\n" + line.encode() + cut)
    found = PredictionsFile(path, {"fps": 1}).read(resume=True)
    assert {name: each.answer for name, each in found.items()} == {"1": "one\u2028two\x85three\u2029(B)"}
    assert path.read_bytes() == b"\n" + line.encode()
    assert reparse(path).predictions[0].letter == "B"
    path.write_bytes(b"\xff" + line.encode())
    with pytest.raises(DataError, match="cannot read the predictions in"):
        PredictionsFile(path, {"fps": 1}).read(resume=True)


def test_predictions_are_whole_or_absent(tmp_path, monkeypatch):
    found = reparse(written(tmp_path))

    def killed(*_):
        raise KeyboardInterrupt

    # at the last moment before a file has its name
    monkeypatch.setattr(Path, "replace", killed)
    for write in (
        lambda: write_predictions(tmp_path / "new" / "a.jsonl", found.predictions),
        lambda: PredictionsFile(tmp_path / "new" / "b.jsonl", {"fps": 1}).read(resume=False),
        lambda: write_table(found.table, tmp_path / "new" / "c.json"),
        lambda: export_choices(found.predictions, [], tmp_path / "new" / "d.json"),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert not list((tmp_path / "new").iterdir())


def test_predictions_of_other_settings_are_refused(taught, questions, tmp_path):
    model, processor = taught
    file = tmp_path / "predictions.jsonl"
    evaluate_questions(model, processor, questions[:2], SHORT, predictions=file)

    def refused(*changed, settings=SHORT):
        with pytest.raises(DataError) as caught:
            evaluate_questions(*changed, settings, predictions=file, resume=True)
        return str(caught.value)

    for settings, message in (
        (replace(SHORT, max_new_tokens=9), r"was written with other settings (max_new_tokens: 8, now 9): choose"),
        (replace(SHORT, fps=2), "(fps: 1, now 2)"),
        (replace(SHORT, prompt="{question} {choices}"), "(prompt: "),
        (replace(SHORT, second_chance="likelihood"), "(second_chance: None, now 'likelihood')"),
    ):
        assert message in refused(model, processor, questions[:2], settings=settings)
    assert "(questions): choose another file" in refused(model, processor, questions)
    other, _ = tiny_video_llm()
    assert "(weights): choose another file" in refused(other, processor, questions[:2])
    file.write_text('{"id": 1}\n')
    assert "line 1 of '" in refused(model, processor, questions[:2])
    file.with_suffix(".settings.json").write_text("[]")
    assert (
        "predictions.settings.json', which says how predictions.jsonl was written, is missing or damaged"
        in refused(model, processor, questions[:2])
    )
    file.with_suffix(".settings.json").unlink()
    assert "is missing or damaged" in refused(model, processor, questions[:2])


def test_the_prompt_of_the_protocol(folder):
    question = ask(folder, "red.mp4", "What is {choices} {0}?")
    assert question_prompt(question) == (
        "What is {choices} {0}? The output should be the choice among one of the following choices. "
        "Choices are (A) red paint (B) blue paint (C) no paint"
    )
    assert question_prompt(question, "{choices}: {question}").startswith(
        "(A) red paint (B) blue paint (C) no paint: Wh"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{question}"}, "the prompt must hold {question} and {choices} once each"),
        ({"prompt": PROMPT + "{choices}"}, "the prompt must hold"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"second_chance": "judge"}, "unknown second_chance 'judge': choose likelihood"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(DataError) as caught:
        AnswerSettings(**settings)
    assert message in str(caught.value)


def test_impossible_settings_of_videos(taught, questions):
    with pytest.raises(DataError, match="fps must be a number above 0, got -1"):
        evaluate_questions(*taught, questions, AnswerSettings(fps=-1))
    # of a batch, the question is named
    with pytest.raises(DataError, match=r"question 'blue.mp4': .* do not fit max_visual_tokens=1"):
        evaluate_questions(*taught, questions, AnswerSettings(fps=2, max_visual_tokens=1))


def predicted(category, view, hits, count, unparsed=0, truth="A"):
    """Answers to `count` questions, the first `hits` right, the last `unparsed` unread."""
    letters = ["A"] * hits + ["B"] * (count - hits - unparsed) + [None] * unparsed
    return [
        AnsweredQuestion(f"{category}{view}{n}", "", letter, "", truth, category, view, letter is None)
        for n, letter in enumerate(letters)
    ]


def test_the_average_of_the_paper_is_unweighted():
    published = {"Act.": 831, "Task": 871, "HOI": 792, "Hand": 651}
    predictions = [each for name, hits in published.items() for each in predicted(name, "ego", hits, 1000)]
    predictions += predicted("Hand", "ego", 9000 * 651 // 1000, 9000)
    metrics = multiple_choice_metrics(predictions)
    assert round(100 * metrics["average"], 1) == 78.6
    assert metrics["overall"] == pytest.approx((831 + 871 + 792 + 651 + 5859) / 13000)
    assert metrics.keys() == {"average", "overall", "questions", "unparsed"}


def test_the_table_by_hand():
    predictions = predicted("x", "ego", 1, 4, 2) + predicted("y", "ego", 2, 2) + predicted("x", "exo", 0, 1, 1)
    rows = {(row.view, row.category): row for row in accuracy_table(predictions)}
    assert list(rows) == [
        ("ego", "x"),
        ("ego", "y"),
        ("ego", "average"),
        ("ego", "overall"),
        ("exo", "x"),
        ("exo", "average"),
        ("exo", "overall"),
        ("all", "x"),
        ("all", "y"),
        ("all", "average"),
        ("all", "overall"),
    ]
    accuracies = [0.25, 1, 0.625, 0.5, 0, 0, 0, 0.2, 1, 0.6, 3 / 7]
    assert [row.accuracy for row in rows.values()] == pytest.approx(accuracies)
    assert [row.questions for row in rows.values()] == [4, 2, 6, 6, 1, 1, 1, 5, 2, 7, 7]
    assert [row.unparsed for row in rows.values()] == [2, 0, 2, 2, 1, 1, 1, 3, 0, 3, 3]
    assert rows["ego", "average"].low is None
    # Wilson's interval of 1 of 4
    assert (rows["ego", "x"].low, rows["ego", "x"].high) == pytest.approx((0.0456, 0.6994), abs=1e-4)


def test_without_categories_views_or_truth():
    assert [(row.view, row.category) for row in accuracy_table(predicted(None, None, 1, 2))] == [("all", "overall")]
    assert multiple_choice_metrics(predicted(None, None, 1, 2)) == {"overall": 0.5, "questions": 2, "unparsed": 0}
    unknown = predicted("x", "ego", 1, 2, 1, truth=None)
    assert multiple_choice_metrics(unknown) == {"questions": 2, "unparsed": 1}
    assert {row.accuracy for row in accuracy_table(unknown)} == {None}
    some = predicted("x", None, 1, 2) + predicted("y", "ego", 0, 2, truth=None)
    assert multiple_choice_metrics(some) == {"overall": 0.5, "average": 0.5, "questions": 4, "unparsed": 0}
    rows = {(row.view, row.category): row.accuracy for row in accuracy_table(some)}
    assert rows == {
        ("ego", "y"): None,
        ("ego", "average"): None,
        ("ego", "overall"): None,
        ("all", "x"): 0.5,
        ("all", "y"): None,
        ("all", "average"): 0.5,
        ("all", "overall"): 0.5,
    }


@pytest.mark.parametrize("name", ["folder", "file/answers.jsonl"])
def test_a_file_of_predictions_that_cannot_be_written(taught, questions, tmp_path, monkeypatch, name):
    """It is said before a question is asked."""
    monkeypatch.setattr(multiple_choice, "generate", lambda *_, **options: pytest.fail("the model was asked"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a folder: name a file|cannot be written: .* is a file"):
        evaluate_questions(*taught, questions, SHORT, predictions=tmp_path / name)


def test_tables_and_exports(tmp_path):
    predictions = predicted("x", "ego", 1, 3, 1)
    rows = accuracy_table(predictions)
    write_table(rows, tmp_path / "deep" / "table.csv")
    write_table(rows, tmp_path / "table.json")
    with (tmp_path / "deep" / "table.csv").open() as file:
        first, *_ = csv.DictReader(file)
    assert first["category"] == "x" and float(first["accuracy"]) == 1 / 3
    assert json.loads((tmp_path / "table.json").read_text()) == [asdict(row) for row in rows]
    export_choices(predictions, [{"id": "gone", "error": ""}], tmp_path / "more" / "choices.json")
    assert json.loads((tmp_path / "more" / "choices.json").read_text()) == {
        "xego0": 0,
        "xego1": 1,
        "xego2": -1,
        "gone": -1,
    }


def test_the_command(taught, checkpoint, folder, tmp_path, capsys):
    items = [
        {"question": "What is shown?", "options": OPTIONS, "video": "red.mp4", "answer": "A", "category": "paint"},
        {"question": "What is shown?", "options": OPTIONS, "video": "blue", "answer": 1, "category": "more"},
        {"question": "What is not?", "options": OPTIONS, "video": "red.mp4", "answer": 2, "category": "paint"},
        {"question": "What is shown?", "options": OPTIONS, "image": "red.png", "answer": 0, "category": "picture"},
        {"question": "Which?", "options": OPTIONS, "video": "gone.mp4", "answer": "A"},
    ]
    (tmp_path / "questions.json").write_text(json.dumps(items))
    words = ["answer", str(checkpoint), str(tmp_path / "questions.json"), "--videos", str(folder), "--device", "cpu"]
    words += ["--max_new_tokens", "8", "--batch-size", "2"]
    assert main(words) == 2
    assert "questions.json, item 5 names 'gone.mp4', which is not in" in capsys.readouterr().err
    words += ["--on-error", "skip", "--left-out", str(tmp_path / "a" / "left.jsonl")]
    words += ["--table", str(tmp_path / "table.csv"), "--export", str(tmp_path / "choices.json")]
    words += ["--output", str(tmp_path / "figures.json"), "--predictions", str(tmp_path / "predictions.jsonl")]
    assert main(words) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == ["view", "category", "questions", "accuracy", "95", "%", "interval", "unparsed"]
    assert "left out: questions.json, item 5 names 'gone.mp4'" in printed.err
    assert lines[-3].split()[-2:] == ["50.00", "%"] and lines[-1].endswith("1 of 4")
    assert json.loads((tmp_path / "a" / "left.jsonl").read_text())["item"] == "questions.json, item 5"
    assert json.loads((tmp_path / "choices.json").read_text()) == {"1": 0, "2": 1, "3": 1, "4": -1}
    report = json.loads((tmp_path / "figures.json").read_text())
    found = load_questions(tmp_path / "questions.json", folder, on_error="skip").questions
    expected = evaluate_questions(*taught, found, SHORT)
    assert report["metrics"] == expected.metrics and report["table"] == [asdict(row) for row in expected.table]
    assert report["settings"]["max_new_tokens"] == 8 and report["format"] == "generic"
    assert main(words) == 2
    assert "exists: continue it with resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out == printed.out

    again = ["answer", "--reparse", str(tmp_path / "predictions.jsonl")]
    files = ["--output", str(tmp_path / "again.json"), "--export", str(tmp_path / "again_choices.json")]
    assert main([*again, *files, "--predictions", str(tmp_path / "again.jsonl")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:-5] == lines[:-5]
    assert [line.split() for line in shown[-3:]] == [line.split() for line in lines[-3:]]
    assert json.loads((tmp_path / "again.json").read_text())["metrics"] == report["metrics"]
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "predictions.jsonl").read_text()
    assert main([*again, "--predictions", str(tmp_path / "again.jsonl")]) == 2
    assert "exists: choose another file" in capsys.readouterr().err


def written(folder, **changes):
    """A file of one answer."""
    line = {"id": "1", "answer": "答案是B", "letter": None, "rule": "no letter", "truth": "B", "category": None}
    line |= {"view": None, "unparsed": True, "correct": False, "options": OPTIONS, "question": "?", "media": "red.mp4"}
    (folder / "predictions.jsonl").write_text(json.dumps(line | changes) + "\n")
    return folder / "predictions.jsonl"


def test_a_better_parser_reads_again_what_was_answered(tmp_path):
    result = reparse(written(tmp_path))
    (found,) = result.predictions
    assert (found.letter, found.rule, found.correct, found.unparsed) == ("B", "statement", True, False)
    assert result.metrics["overall"] == 1.0 and result.metrics["unparsed"] == 0
    # the second chance stands where nothing can be read
    (found,) = reparse(written(tmp_path, answer="hm", letter="C", rule="likelihood")).predictions
    assert (found.letter, found.rule, found.unparsed) == ("C", "likelihood", True)
    (found,) = reparse(written(tmp_path, letter="C", rule="likelihood")).predictions
    assert (found.letter, found.rule, found.unparsed) == ("B", "statement", False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model", "--reparse", "{}"], "CHECKPOINT has no effect on --reparse"),
        (["--reparse", "{}", "--videos", "x"], "--videos has no effect on --reparse"),
        (["--reparse", "{}", "--max_new_tokens", "3"], "--max-new-tokens has no effect on --reparse"),
        (["--reparse", "{}.gone"], "cannot read the predictions in"),
        (["model"], "the following arguments are required: QUESTIONS"),
        ([], "the following arguments are required: CHECKPOINT"),
    ],
)
def test_what_reading_again_does_not_take(tmp_path, capsys, words, sentence):
    file = written(tmp_path)
    assert main(["answer", *(word.format(file) for word in words)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "holds no answer"), ("{}\n", "line 1 of"), ("no\n", "line 1 of")],
    ids=["empty", "no fields", "no JSON"],
)
def test_a_damaged_file_is_not_read_again(tmp_path, text, sentence):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match=sentence):
        reparse(tmp_path / "x.jsonl")
    with pytest.raises(DataError, match="lacks the options of its question"):
        reparse(written(tmp_path, options=None))
    for changes, sentence in (
        ({"truth": "a"}, "has the truth 'a', which is none of A, B, C"),
        ({"options": ["a", "b"]}, "has the options"),
        ({"options": {"a": "x", "b": "y"}}, "has the options"),
        ({"answer": None}, "is None, where text must be"),
    ):
        with pytest.raises(DataError, match=sentence):
            reparse(written(tmp_path, **changes))
    (tmp_path / "twice.jsonl").write_text(2 * written(tmp_path).read_text())
    with pytest.raises(DataError, match="answers 1 questions twice"):
        reparse(tmp_path / "twice.jsonl")


def test_figures_by_language(tmp_path):
    lines = [written(tmp_path, id=str(number), language=language).read_text() for number, language in enumerate("zzd")]
    (tmp_path / "all.jsonl").write_text("".join(lines))
    rows = reparse(tmp_path / "all.jsonl").table
    assert [(row.view, row.category, row.questions) for row in rows] == [
        ("all", "overall", 3),
        ("all", "language d", 1),
        ("all", "language z", 2),
    ]


def test_a_part_of_a_video_is_asked_about(taught, folder, tmp_path):
    """The frames of the part alone go into the model."""
    whole = ask(folder, "red.mp4")
    part = replace(whole, id="part", start=0.0, end=0.5)
    seen = []
    model, processor = taught
    for question in (whole, part):
        inputs, _, _ = multiple_choice._inputs(processor, [question], SHORT)
        seen.append(inputs["grid_thw" if "grid_thw" in inputs else "video_grid_thw"].tolist())
    assert seen[0] != seen[1]
    result = evaluate_questions(model, processor, [whole, part], SHORT, predictions=tmp_path / "p.jsonl")
    assert [(each.id, each.start, each.end) for each in result.predictions] == [
        (whole.id, None, None),
        ("part", 0.0, 0.5),
    ]


def test_the_command_with_other_checkpoints(tmp_path, folder, capsys):
    (tmp_path / "questions.json").write_text(
        json.dumps([{"question": "?", "options": ["a", "b"], "video": "red.mp4"}])
    )
    words = [str(tmp_path / "questions.json"), "--videos", str(folder)]
    assert main(["answer", str(tmp_path), *words]) == 2
    assert "has no config.json: it is no checkpoint folder." in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "video_llama_3"}))
    assert main(["answer", str(tmp_path), *words]) == 2
    assert (
        "holds a video_llama_3 model, but a video language model (dna_video_llama3) is needed: make one"
        in capsys.readouterr().err
    )
    (tmp_path / "dna_adapter.json").write_text("{}")
    assert main(["answer", str(tmp_path), *words]) == 2
    assert "holds an adapter, no whole model: make one of it with dna-hf merge." in capsys.readouterr().err
    assert main(["answer", str(tmp_path), *words, "--second_chance", "judge"]) == 2
    assert "--second-chance: invalid choice: 'judge'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["evaluate"], ["predict", "clip.mp4"]])
def test_the_commands_for_classifiers_tell_of_this_one(checkpoint, words, capsys):
    verb, *files = words
    assert main([verb, str(checkpoint), *files]) == 2
    assert "that one is for dna-hf answer or dna-hf chat." in capsys.readouterr().err
