"""Files of questions: both forms of PerceptionMCQ, EgoSchema, any other, and everything that is wrong with them."""

import json
from pathlib import Path

import pytest

from dna_hf.data.errors import DataError
from dna_hf.data.multiple_choice import Question, letter_of, load_questions


UID = "0074f737-11cb-497d-8d07-77c3a8127391"
CHOICES = {"A": "Peel", "B": "Wash", "C": "Cut", "D": "Open"}
ITEM = {"question": "What is done?", "options": ["Peel", "Wash", "Cut"], "video": "clip.mp4", "answer": "B"}


def perception(**changes):
    item = {"question": "What is done?", "answer_choices": CHOICES, "category_name": "Hand", "ground_truth": "C"}
    return item | {"ego_filename": "take_ego.mp4", "exo_filename": "take_exo.mp4"} | changes


def lay(folder, *names):
    """Files that exist; what is in them is nobody's business here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def write(folder, items, name="questions.json"):
    text = "\n".join(map(json.dumps, items)) if name.endswith("jsonl") else json.dumps(items)
    (folder / name).write_text(text)
    return folder / name


def load(folder, items, name="questions.json", **options):
    return load_questions(write(folder, items, name), **options)


def refused(folder, items, **options):
    """What the error says, one sentence."""
    with pytest.raises(DataError) as caught:
        load(folder, items, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


@pytest.mark.parametrize("where", ["", "videos/", "egocentric_videos/", "keystep_segments/"])
def test_perception_as_published_with_dna(tmp_path, where):
    lay(tmp_path, f"{where}take_ego.mp4", f"{where}take_exo.mp4")
    found = load(tmp_path, [perception()])
    assert found.format == "perception_mcq" and found.name == "questions.json" and not found.skipped
    assert found.questions == [
        Question(
            f"1_{view}",
            "What is done?",
            CHOICES,
            str(tmp_path / where / f"take_{view}.mp4"),
            "video",
            "C",
            "Hand",
            view,
        )
        for view in ("ego", "exo")
    ]


def test_perception_as_published_with_viscop(tmp_path):
    item = {"question": "?", "answer_choices": CHOICES, "category_name": "Task", "ground_truth_letter": "D"}
    lay(tmp_path, "egocentric_videos/take/step_cam4.mp4", "egocentric_videos/take/step_ego.mp4")
    found = load(tmp_path, [item | {"video_filename": "take/step_cam4", "ground_truth": "Open"}])
    assert [Path(question.media).stem for question in found.questions] == ["step_ego", "step_cam4"]
    assert [(question.view, question.answer) for question in found.questions] == [("ego", "D"), ("exo", "D")]


def test_perception_of_depth_takes_the_exo_camera(tmp_path):
    lay(tmp_path, "depth_videos/take_exo.mp4", "videos/take_exo.mp4")
    (question,) = load(tmp_path, [perception()], views=["depth"]).questions
    assert (question.id, question.view) == ("1_depth", "depth")
    assert question.media == str(tmp_path / "depth_videos" / "take_exo.mp4")
    assert "'take_exo.mp4', which is not in" in refused(lay(tmp_path / "none", "x"), [perception()], views=["depth"])


def test_egoschema_as_its_authors_publish_it(tmp_path):
    lay(tmp_path, f"videos/{UID}.mp4", "other.mp4")
    item = {"q_uid": UID, "google_drive_id": "x", "question": "Why?"} | {f"option {n}": f"text {n}" for n in range(5)}
    (question,) = load(tmp_path, [item]).questions
    assert question.id == UID and question.answer is None and question.category is None
    assert question.options == {letter: f"text {number}" for number, letter in enumerate("ABCDE")}
    answers = tmp_path / "subset_answers.json"
    answers.write_text(json.dumps({UID: 3}))
    found = load(tmp_path, [item, item | {"q_uid": "other"}], answers=answers)
    assert [(question.id, question.answer) for question in found.questions] == [(UID, "D")]
    answers.write_text(json.dumps({UID: 5}))
    assert "item 1 is given the answer 5, which is none of the options A to E" in refused(
        tmp_path, [item], answers=answers
    )
    answers.write_text("[1]")
    assert "subset_answers.json must tell the answer of each id" in refused(tmp_path, [item], answers=answers)


def test_egoschema_as_on_the_hub(tmp_path):
    lay(tmp_path, f"{UID}.mp4")
    item = {"question_idx": "17", "video_idx": UID, "question": "Why?", "answer": "4"}
    item["option"] = [f"{letter}. text of {letter}." for letter in "ABCDE"]
    found = load(tmp_path, [item])
    (question,) = found.questions
    assert found.format == "egoschema" and question.id == UID and question.answer == "E"
    assert question.options["B"] == "text of B."
    (question,) = load(
        tmp_path,
        [item | {"question_idx": "x", "video_idx": None, "video": f"{UID}.mp4"}],
        format="egoschema",
    ).questions
    assert question.id == "x"
    assert "EgoSchema has no views" in refused(tmp_path, [item], views=["ego"])


@pytest.mark.parametrize("name", ["questions.json", "questions.jsonl"])
def test_any_other_file(tmp_path, name):
    lay(tmp_path, "clip.mp4", "deep/other.avi", "picture.png")
    items = [
        ITEM,
        {"id": 7, "question": "Where?", "choices": {"B": "there", "A": "here"}, "video": ["deep/other"], "answer": 1},
        {"question": "Who?", "candidates": [1, 2.5], "image": "picture.png", "category": "people", "view": "front"},
    ]
    found = load(tmp_path, items, name)
    assert found.format == "generic"
    assert [question.id for question in found.questions] == ["1", "7", "3"]
    assert [question.answer for question in found.questions] == ["B", "B", None]
    assert found.questions[1].options == {"A": "here", "B": "there"}
    assert found.questions[1].media == str(tmp_path / "deep" / "other.avi")
    picture = found.questions[2]
    assert (picture.kind, picture.category, picture.view) == ("image", "people", "front")
    assert picture.options == {"A": "1", "B": "2.5"}
    kept = load(tmp_path, items, name, views=["front"]).questions
    assert [question.text for question in kept] == ["Who?"]


def test_videos_in_a_folder_of_their_own(tmp_path):
    lay(tmp_path, "elsewhere/clip.mp4", "questions/x")
    path = write(tmp_path / "questions", [ITEM, ITEM | {"video": str(tmp_path / "elsewhere" / "clip"), "view": "b"}])
    questions = load_questions(path, tmp_path / "elsewhere").questions
    assert [question.media for question in questions] == [str(tmp_path / "elsewhere" / "clip.mp4")] * 2


@pytest.mark.parametrize(
    ("told", "letter"),
    [("C", "C"), ("c", "C"), ("(C)", "C"), ("C.", "C"), (2, "C"), ("2", "C"), ("Cut", "C"), (0, "A"), (" D ", "D")],
)
def test_ways_to_tell_the_answer(told, letter):
    assert letter_of(told, CHOICES, "it has") == letter


def test_the_text_of_an_option_comes_before_its_index():
    assert letter_of("2", {"A": "1", "B": "2", "C": "3"}, "") == "B"
    with pytest.raises(DataError, match="which is the text of B and the index of C"):
        letter_of(2, {"A": "1", "B": "2", "C": "3"}, "it has")
    assert letter_of("F", {"A": "E", "B": "F"}, "") == "B"


@pytest.mark.parametrize("told", ["E", 4, -1, "4", True, 1.0, None, [], "", "Nothing", {"A": 1}])
def test_answers_that_are_no_option(told):
    with pytest.raises(DataError, match="^it has the answer .* none of the options A to D: write the letter"):
        letter_of(told, CHOICES, "it has")
    with pytest.raises(DataError):
        letter_of("Cut", {"A": "Cut", "B": "Cut"}, "it has")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": "gone.mp4"}, "item 2 names 'gone.mp4', which is not in '"),
        ({"video": "x" * 5000}, "which is not in '"),
        ({"video": "a\0b"}, "which is not in '"),
        ({"video": "https://example.org/a.mp4"}, "item 2 names the address 'https://example.org/a.mp4': download it"),
        ({"video": 1.5}, "item 2 has 1.5 in field 'video', where text must be"),
        ({"video": ["a", "b"]}, "item 2 has ['a', 'b'] in field 'video', where text must be"),
        ({"video": None}, "item 2 must have one of the fields 'video' and 'image'"),
        ({"image": "clip.mp4"}, "item 2 must have one of the fields 'video' and 'image'"),
        ({"question": ""}, "item 2 has '' in field 'question', where text must be"),
        ({"question": ["Why?"]}, "item 2 has ['Why?'] in field 'question'"),
        ({"question": None}, "item 2 has no field 'question'"),
        ({"category": True}, "item 2 has True in field 'category'"),
        ({"answer": "D"}, "item 2 has in field 'answer' the answer 'D', which is none of the options A to C"),
        ({"answer": 3}, "item 2 has in field 'answer' the answer 3"),
        ({"answer": True}, "item 2 has in field 'answer' the answer True"),
        ({"options": None}, "item 2 has no field 'options' or 'choices'"),
        ({"options": ["one"]}, "item 2 has ['one'] in field 'options', where 2 to 26 options must be"),
        ({"options": "A or B"}, "item 2 has 'A or B' in field 'options'"),
        ({"options": ["a", " "]}, "item 2 has the option ' ' in field 'options', where text must be"),
        ({"options": ["a", True]}, "item 2 has the option True in field 'options'"),
        ({"options": {"A": "a", "C": "c"}}, "item 2 has the letters A, C in field 'options', which must be A, B, ..."),
        ({"options": {"A": "a", "a": "c"}}, "item 2 has the letters A, a in field 'options'"),
        ({"options": list(range(27))}, "where 2 to 26 options must be"),
        ({"id": "1"}, "item 2 has the id '1' of item 1"),
        ({"question": "What is done?"}, "item 2 repeats the question, options and video of item 1"),
    ],
)
def test_what_is_wrong_is_named_or_left_out(tmp_path, changes, message):
    lay(tmp_path, "clip.mp4", "b.mp4")
    items = [ITEM, ITEM | {"question": "Another?"} | changes, ITEM | {"video": "b.mp4"}]
    error = refused(tmp_path, items)
    assert message in error and error.startswith("questions.json")
    found = load(tmp_path, items, on_error="skip")
    assert [question.id for question in found.questions] == ["1", "3"]
    assert found.skipped == [{"item": "questions.json, item 2", "error": error}]


def test_a_line_that_is_no_object(tmp_path):
    lay(tmp_path, "clip.mp4")
    path = write(tmp_path, [ITEM, 5, ITEM | {"question": "Another?"}], "questions.jsonl")
    with pytest.raises(DataError, match="questions.jsonl, line 2 is no object of fields, but 5."):
        load_questions(path)
    assert len(load_questions(path, on_error="skip").questions) == 2
    path.write_text(path.read_text() + "\n\n{")
    with pytest.raises(DataError, match="questions.jsonl, line 5 is not JSON"):
        load_questions(path)


def test_perception_with_something_missing(tmp_path):
    lay(tmp_path, "take_ego.mp4")
    assert "item 1 names 'take_exo.mp4', which is not in" in refused(tmp_path, [perception()])
    assert len(load(tmp_path, [perception()], views=["ego"]).questions) == 1
    assert "has no field 'category' or 'category_name'" in refused(
        tmp_path, [perception(category_name=None)], views=["ego"]
    )
    assert "has no field 'exo_filename'" in refused(tmp_path, [perception(exo_filename=None)], views=["exo"])
    assert "unknown view 'side': choose some of ego, exo, depth" in refused(tmp_path, [perception()], views=["side"])
    # the views of an item are left out together, so that they stay comparable
    assert "leaves no question to ask of 1; the first: questions.json, item 1" in refused(
        tmp_path, [perception()], on_error="skip"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "questions.json is not JSON"),
        (b"", "questions.json is not JSON"),
        (b"[]", "questions.json holds no question"),
        (b'{"a": 1}', "questions.json must be a list of questions, got dict"),
        (b"[1]", "questions.json must be a list of objects"),
        (b'["\xff"]', "questions.json is not encoded in UTF-8"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "questions.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_questions(path)


def test_wrong_arguments(tmp_path):
    lay(tmp_path, "clip.mp4")
    with pytest.raises(DataError, match="cannot read .*none.json'"):
        load_questions(tmp_path / "none.json")
    assert "folder of videos" in refused(tmp_path, [ITEM], videos=tmp_path / "none")
    assert "unknown format of questions 'csv': choose one of perception_mcq" in refused(tmp_path, [ITEM], format="csv")
    assert "on_error is 'ignore': choose raise or skip" in refused(tmp_path, [ITEM], on_error="ignore")
    assert "leaves no question to ask of 1." in refused(tmp_path, [ITEM], views=["ego"])
