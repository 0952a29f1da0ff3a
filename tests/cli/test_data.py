"""`dna-hf data`: what it finds, prints and writes, against files that were planted."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from dna_hf.cli import main
from dna_hf.data.kinds_of_data import find_kind
from tests.kit.page import Page
from tests.kit.paths import ROOT, shared_path
from tests.kit.video_llm_training import save_base, tiny_processor
from tests.kit.videos import write_video


EVIL = "<b>&amp; rose"


def noise(seed, size=(20, 16)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Class folders with two test images copied from training, one class of a single image, one broken file."""
    folder = tmp_path_factory.mktemp("data") / "flowers"
    for split, name, count in (("train", EVIL, 5), ("train", "tulip", 1), ("test", EVIL, 3), ("test", "tulip", 1)):
        for number in range(count):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            noise(zlib.crc32(f"{split}{name}{number}".encode())).save(folder / split / name / f"{number}.png")
    for number in range(2):
        shutil.copy(folder / "train" / EVIL / f"{number}.png", folder / "test" / EVIL / f"copy{number}.png")
    (folder / "train" / EVIL / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def written(flowers, tmp_path_factory):
    """The folder that the verb wrote, and what it printed."""
    output = tmp_path_factory.mktemp("written")
    words = ["data", str(flowers), "--output-dir", str(output), "--output", str(output / "copy.json")]
    command = [sys.executable, "-m", "dna_hf", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_it_prints_what_the_folder_holds_and_names_the_duplicates(written):
    output, printed = written
    lines = printed.splitlines()
    assert lines[0] == "images, for the files of the folder have such names"
    rows = {line[:26].strip(): line[26:] for line in lines[2:14]}
    assert rows["train"] == "7 images, 2 classes, 1 to 6 each" and rows["test"] == "6 images, 2 classes, 1 to 5 each"
    assert rows["duplicates across splits"] == "2"
    shown = printed[printed.index("look at:") :].splitlines()[1:5]
    assert shown == [
        "- one class has a single image in 'train': tulip.",
        "- one class has a single image in 'test': tulip.",
        f"- 2 images of 'test' are in 'train', too: test/{EVIL}/copy0.png = train/{EVIL}/0.png, "
        f"test/{EVIL}/copy1.png = train/{EVIL}/1.png.",
        f"- 1 image cannot be read: train/{EVIL}/broken.png (it is no image of a known format).",
    ]
    assert lines[-1].startswith(f"written: {output / 'data.html'}") and "2 contact sheets" in lines[-1]


def test_the_json_has_every_pair_and_every_count(written):
    output, _ = written
    content = json.loads((output / "data_summary.json").read_text())
    assert content == json.loads((output / "copy.json").read_text())
    assert content["splits"]["train"]["classes"] == {EVIL: 6, "tulip": 1}
    names = [[sample["name"] for sample in group] for group in content["duplicates"]]
    assert names == [[f"train/{EVIL}/{n}.png", f"test/{EVIL}/copy{n}.png"] for n in range(2)]
    assert content["sizes"] == {"20x16": 12} and content["dataset"] == "flowers"


def test_the_page_carries_its_pictures_and_shows_names_as_they_are(written):
    output, _ = written
    page = Page((output / "data.html").read_text())
    assert len(page.images) == 2 and EVIL in " ".join(page.words)
    assert all(address.startswith("data:") for address in page.addresses)
    assert all(EVIL in image["alt"] or "tulip" in image["alt"] for image in page.images)


def test_a_sheet_shows_the_pictures_of_its_class(written):
    output, _ = written
    first, second = sorted((output / "sheets").iterdir())
    assert second.name == "0001_tulip.png"
    with Image.open(second) as sheet:
        # one picture of train above one of test, with their own pixels: 96 for the longer side of 20
        pixels = np.asarray(sheet)
    for line, split in enumerate(("train", "test")):
        picture = noise(zlib.crc32(f"{split}tulip0".encode()))
        top = 4 + 100 * line + (96 - 77) // 2
        shown = pixels[top : top + 77, 4:100]
        assert np.array_equal(shown, np.asarray(picture.resize((96, 77), Image.Resampling.NEAREST)))
    with Image.open(first) as sheet:
        assert sheet.size == (8 * 100 + 4, 2 * 100 + 4)


@pytest.mark.parametrize("width", [390, 1300])
def test_the_page_in_a_browser(written, tmp_path, width):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    shown = """<script>addEventListener("load", () => {
        const loaded = [...document.images].filter(image => image.complete && image.naturalWidth > 0).length;
        const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        document.title = `${loaded} images, ${wide} too wide`;
    });</script>"""
    page = tmp_path / "page.html"
    text = (written[0] / "data.html").read_text().replace(' loading="lazy"', "")
    page.write_text(text.replace("</body>", shown + "</body>"))
    words = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")
    size = (f"--window-size={width},800", f"--user-data-dir={tmp_path / 'user'}")
    done = subprocess.run([chromium, *words, *size, page.as_uri()], capture_output=True, text=True, timeout=300)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "<title>2 images, 0 too wide</title>" in done.stdout


def test_images_are_summarized_without_torch(tmp_path):
    code = """
import sys
from dna_hf.cli import main
code = main(["data", "fashion-mnist-mini", "--output", sys.argv[1]])
print(code, {"torch", "transformers"} & set(sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, str(tmp_path / "x.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["looked_at"] == {"samples": 2500, "of": 2500}


def test_videos_in_folders(tmp_path, capsys):
    for number, name in enumerate(["jump/a.avi", "jump/b.avi", "run/c.avi"]):
        (tmp_path / "videos" / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / "train" / name, 4 + number, codec="mpeg4", fps=25)
    (tmp_path / "videos" / "test" / "run").mkdir(parents=True)
    (tmp_path / "videos" / "train" / "swim").mkdir()
    shutil.copy(tmp_path / "videos/train/run/c.avi", tmp_path / "videos/test/run/same.avi")
    output = tmp_path / "out"
    assert main(["data", str(tmp_path / "videos"), "--output-dir", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "1 folder holds no videos: train/swim." in printed
    assert printed.startswith("videos, for the files of the folder have such names")
    assert "1 video of 'test' is in 'train', too: test/run/same.avi = train/run/c.avi." in printed
    content = json.loads((output / "data_summary.json").read_text())
    assert content["splits"]["train"]["classes"] == {"jump": 2, "run": 1}
    assert content["sizes"] == {"64x48": 4} and content["modes"] == {"25 fps": 4}
    assert len(list((output / "sheets").iterdir())) == 2


def test_videos_that_are_folders_of_frames(tmp_path, capsys):
    for clip in ("jump/one", "jump/two", "run/one"):
        (tmp_path / "clips" / clip).mkdir(parents=True)
        for number in range(2):
            noise(number, (30, 24)).save(tmp_path / "clips" / clip / f"{number}.png")
    words = ["--kind", "video", "--output-dir", str(tmp_path / "out")]
    assert main(["data", str(tmp_path / "clips"), *words]) == 0
    content = json.loads((tmp_path / "out" / "data_summary.json").read_text())
    assert content["splits"]["train"]["classes"] == {"jump": 2, "run": 1}
    assert content["sizes"] == {"30x24": 3} and content["modes"] == {"folder of frames": 3}
    # sheets of an earlier data set go
    shutil.rmtree(tmp_path / "clips" / "jump")
    (tmp_path / "clips" / "sit").mkdir()
    shutil.copytree(tmp_path / "clips" / "run" / "one", tmp_path / "clips" / "sit" / "one")
    assert main(["data", str(tmp_path / "clips"), *words]) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "sheets").iterdir())
    assert names == ["0000_run.png", "0001_sit.png"]


CONVERSATIONS = [
    {"video": "a.avi", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}] * 2},
    {"image": "no.png", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]},
    {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "They."}]},
]
QUESTIONS = [
    {"question": "1?", "options": ["a", "b"], "video": "a.avi", "answer": "A", "category": "x"},
    {"question": "2?", "options": ["a", "b", "c"], "video": "a.avi", "category": "y"},
    {"question": "3?", "options": ["a", "b"], "video": "none.avi"},
]


@pytest.mark.parametrize(
    ("entries", "kind", "expected"),
    [
        (CONVERSATIONS, "conversations", {"samples": 2, "questions": 3, "answers": 3, "videos": 1, "images": 0}),
        (QUESTIONS, "questions", {"questions": 2, "options": "2 to 3", "videos": 2, "video_files": 1}),
    ],
    ids=["conversations", "questions"],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_files_for_video_llms(tmp_path, capsys, entries, kind, expected, suffix):
    (tmp_path / "a.avi").write_bytes(b"video")
    path = tmp_path / f"file{suffix}"
    path.write_text(json.dumps(entries) if suffix == ".json" else "\n".join(map(json.dumps, entries)))
    assert main(["data", str(path), "--output", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{kind}, for its first entry has ")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content.items() >= expected.items()
    # what is left out names the file that is missing
    assert len(content["left_out"]) == 1 and content["left_out"][0] in printed
    assert ("no.png" if kind == "conversations" else "none.avi") in content["left_out"][0]


def test_the_longest_conversation_is_named_in_tokens(tmp_path, capsys):
    base = save_base(tmp_path / "base")
    processor = tiny_processor()
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "They."}]
    longer = [
        *turns,
        {"role": "user", "content": " ".join(["And"] * 20)},
        {"role": "assistant", "content": "Nobody else."},
    ]
    (tmp_path / "cut.mp4").write_bytes(b"no video")
    samples = [{"messages": turns}, {"id": "long", "messages": longer}, {"video": "cut.mp4", "messages": turns}]
    (tmp_path / "train.json").write_text(json.dumps(samples))
    words = ["data", str(tmp_path / "train.json"), "--checkpoint", str(base)]
    assert main([*words, "--output", str(tmp_path / "out.json")]) == 0
    encoded = processor.apply_chat_template(longer, tokenize=True, return_dict=True, return_tensors="pt")
    tokens = encoded["input_ids"].numel()
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["longest_sample"] == f"{tokens} tokens: 'train.json', entry 2, sample 'long'"
    assert "cut.mp4" in report["left_out"][0]
    capsys.readouterr()
    (tmp_path / "pictures" / "rose").mkdir(parents=True)
    noise(1).save(tmp_path / "pictures" / "rose" / "1.png")
    assert main(["data", str(tmp_path / "pictures"), "--checkpoint", str(base)]) == 2
    assert "--checkpoint is for conversations, but these are images: leave it out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a/1.png", "b/2.JPG"], "image"),
        (["a/1.mp4", "b/2.png", "b/3.png"], "image"),
        (["a/1.mp4", "a/1.jpg", "b/2.gif", "b/2.mp4"], "video"),
        (["train.parquet"], "image"),
        (["TEST.PARQUET"], "image"),
        (["train/0.tar"], "image"),
        (["train/0.tar.gz"], "image"),
        (["train.csv"], "video"),
        ([".hidden/1.mp4", "a/1.png"], "image"),
    ],
)
def test_the_kind_of_a_folder_is_found_by_its_files(tmp_path, names, kind):
    for each in names:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_bytes(b"x")
    assert find_kind(str(tmp_path))[0] == kind


def test_embedded_data_goes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-mnist-mini").mkdir()
    assert main(["data", "fashion-mnist-mini", "--output", "out.json"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["from"] == "embedded in dna-hf"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all"], "does not exist"),
        (["fashion-mnist-mini", "--kind", "sounds"], "invalid choice"),
        (["fashion-mnist-mini", "--mixup_alpha", "1"], "--mixup_alpha has no effect on dna-hf data"),
        (["fashion-mnist-mini", "--dataset", "x"], "here the data set is the first word"),
        (["moving-fashion-mnist", "--image_column", "x"], "--image_column"),
        (["fashion-mnist-mini", "--label_column", "lable"], "lable"),
    ],
)
def test_mistakes_are_one_sentence(words, message, capsys):
    assert main(["data", *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_cifar10_takes_less_than_a_minute(tmp_path):
    """60,000 images, all of which are decoded."""
    folder = shared_path("data", "cifar10")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "dna_hf", "data", str(folder), "--output-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0 and "50,000 images, 10 classes, 5,000 each" in done.stdout


def test_a_split_to_train_on_that_cannot_be_read_is_an_error_and_another_one_is_named_as_left_out(tmp_path, capsys):
    for split, ages in (("train", (20, 21, 22)), ("test", (20, 22, 23))):
        (tmp_path / split).mkdir()
        for number in range(3):
            noise(number).save(tmp_path / split / f"{number}.png")
        lines = (f"{number}.png,{age},{number}" for number, age in enumerate(ages))
        (tmp_path / split / "metadata.csv").write_text("\n".join(["file_name,age,kind", *lines]))
    assert main(["data", str(tmp_path), "--label_column", "age"]) == 2
    assert "the labels in 'age' are not 0..n-1 (20, 21, 22): give class_names." in capsys.readouterr().err
    table = tmp_path / "test" / "metadata.csv"
    table.write_text(table.read_text().replace("1.png,22,1", "1.png,22,"))
    assert main(["data", str(tmp_path), "--label_column", "kind"]) == 0
    printed = capsys.readouterr().out
    assert "split 'test'" in printed.split("left out")[1] and "has no label in column 'kind'" in printed


def test_the_kind_that_is_less_common_is_named_with_its_option(tmp_path, capsys):
    for number in range(4):
        (tmp_path / "rose").mkdir(exist_ok=True)
        noise(number).save(tmp_path / "rose" / f"{number}.png")
    (tmp_path / "rose" / "junk.mp4").write_bytes(b"x")
    assert main(["data", str(tmp_path)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        "images, for the folder has 4 images and 1 video: if it is a data set of videos, set --kind video"
    )


def test_links_that_lead_back_and_images_that_are_left_out_are_counted_once(flowers, tmp_path, capsys):
    shutil.copytree(flowers, tmp_path / "d")
    (tmp_path / "d" / "train" / "tulip" / "loop").symlink_to(tmp_path / "d" / "train")
    noise(1).save(tmp_path / "d" / "loose.png")
    assert main(["data", str(tmp_path / "d")]) == 0
    printed = capsys.readouterr().out
    assert (
        re.findall(r"([\d,]+) images$", printed, re.MULTILINE) == ["13"] and "in no split folder: loose.png" in printed
    )


@pytest.mark.parametrize(("ending", "kind"), [("png", "image"), ("avi", "video")])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_a_table_is_of_what_it_names(tmp_path, ending, kind, suffix):
    row = {"csv": '"my flowers/{}.{}",rose', "jsonl": '{{"path": "{}.{}", "label": "rose"}}', "txt": "{}.{} 0"}[suffix]
    table = tmp_path / f"train.{suffix}"
    table.write_text("\n".join(row.format(number, ending) for number in range(3)))
    assert find_kind(str(table))[0] == find_kind(str(tmp_path))[0] == kind


def test_a_table_of_images_alone_is_refused_as_training_refuses_it(tmp_path, capsys):
    (tmp_path / "lone.csv").write_text("path,label\na.png,rose\nb.png,tulip\n")
    assert main(["data", str(tmp_path / "lone.csv")]) == 2
    told = capsys.readouterr().err
    assert "'lone.csv' is a file" in told.replace(f"{tmp_path}/", "") and "the folder it lies in" in told
