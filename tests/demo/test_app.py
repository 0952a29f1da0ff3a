"""The page of the demo in a browser: pictures, sliders, clicks and bad files."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf.analysis import AnalysisError
from dna_hf.demo.app import build_app, serve
from dna_hf.demo.explore import Choices, load_explorer
from tests.kit.models import tiny_vit
from tests.kit.video_llm import tiny_model, tiny_processor
from tests.kit.videos import numbered, write_video


CHROMIUM = shutil.which("chromium")
needs_a_browser = pytest.mark.skipif(
    not (CHROMIUM and find_spec("gradio") and find_spec("playwright")),
    reason="needs gradio, playwright and chromium",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    for variant in ("dna", "softmax"):
        tiny_vit(variant).save_pretrained(folder / variant)
        ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / variant)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture")
    processor = tiny_processor()
    for name, variant in (("video_llm", "dna"), ("video_llm_softmax", "softmax")):
        tiny_model(processor, vision={"attention_variant": variant}).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    tiny_vit().dna_vit.save_pretrained(folder / "body")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder / "body")
    write_video(folder / "a.mp4", [numbered(frame) for frame in (10, 120, 240)], fps=1)
    return folder


@pytest.mark.skipif(find_spec("gradio") is not None, reason="gradio is installed")
def test_without_gradio(folder):
    with pytest.raises(AnalysisError, match="pip install 'dna-hf\\[demo\\]'"):
        build_app(load_explorer([str(folder / "dna")]))


class Visit:
    """One visit of a page in a browser, which must not complain, nor ask any host but its own.

    Args:
        app: that is served.
        page: of the browser.
    """

    def __init__(self, app, page):
        self.page, self.host = page, app.local_url.split("/")[2]
        self.errors, self.hosts = [], set()
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
        page.goto(app.local_url)
        self.images = page.locator("img[src*='/file=']")

    def drop(self, path):
        self.page.set_input_files("input[type=file]", path)

    def sources(self):
        return [self.images.nth(number).get_attribute("src") for number in range(self.images.count())]

    def changed(self, before, count=1):
        """Wait until there are so many pictures, and others than before; returns what they are."""
        self.page.wait_for_function(
            "([before, count]) => { const now = [...document.querySelectorAll(\"img[src*='/file=']\")].map(i => "
            "i.getAttribute('src')); return now.length >= Math.max(before.length, count) && "
            "JSON.stringify(now) !== JSON.stringify(before); }",
            arg=[before, count],
            timeout=60_000,
        )
        self.page.wait_for_timeout(500)
        return self.sources()

    def says(self, text):
        self.page.get_by_text(text).first.wait_for(timeout=60_000)

    def predictions(self):
        """The names that stand beside the pictures of each model, five of each."""
        texts = self.page.locator("[data-testid$='confidence-set']").all_text_contents()
        names = [text.strip().rpartition(" ")[0].strip() for text in texts]
        return [names[start : start + 5] for start in range(0, len(names), 5)]

    def until(self, condition):
        for _ in range(600):
            if condition():
                return
            self.page.wait_for_timeout(100)
        pytest.fail("the page has not become what it should be")

    def set(self, control, value):
        self.page.get_by_label(f"number input for {control}").fill(value)
        self.page.keyboard.press("Tab")

    def check(self):
        assert not self.errors and self.hosts == {self.host}


@pytest.fixture
def visit():
    """Serve checkpoints, and visit the page."""
    from playwright.sync_api import sync_playwright

    apps = []

    def go(*checkpoints):
        apps.append(serve(load_explorer([str(each) for each in checkpoints]), "127.0.0.1", None, block=False))
        return Visit(apps[-1], browser.new_page(viewport={"width": 1300, "height": 1000}))

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield go
        browser.close()
    for app in apps:
        app.close()


@needs_a_browser
def test_page_of_classifiers(folder, visit):
    visit = visit(folder / "dna", folder / "softmax")
    assert not visit.page.get_by_label("Question").is_visible() and not visit.page.get_by_label("Probe").is_visible()
    visit.drop(folder / "a.png")
    # four pictures of denoising attention, three of softmax attention less the negative branch that it lacks
    shown = visit.changed([], count=6)
    visit.set("Alpha x", "0")
    without = visit.changed(shown)
    visit.images.nth(1).click(position={"x": 5, "y": 5})
    visit.changed(without)
    visit.says("Asking: the patch in row 0, column 0")
    visit.page.get_by_label("Clear").first.click()
    visit.drop(folder / "bad.png")
    visit.says("This file cannot be shown")
    visit.check()


@needs_a_browser
def test_page_of_a_model_without_a_classifier(folder, visit):
    visit = visit(folder / "dna", folder / "body")
    visit.says("it has no classifier")
    visit.drop(folder / "a.png")
    # four pictures of each, and classes of the one that names some
    visit.changed([], count=8)
    visit.until(lambda: [len(names) for names in visit.predictions()] == [2])
    visit.check()


@needs_a_browser
def test_page_of_video_language_models(folder, visit):
    checkpoints = [folder / "video_llm", folder / "video_llm_softmax"]
    visit, explorer = visit(*checkpoints), load_explorer([str(each) for each in checkpoints])
    page, frame = visit.page, visit.page.get_by_label("number input for Frame")
    visit.drop(folder / "a.png")
    shown = visit.changed([], count=6)
    assert not frame.is_visible()
    page.get_by_label("Clear").first.click()
    visit.drop(folder / "a.mp4")
    shown = visit.changed(shown, count=6)
    # as many frames as the file has
    visit.until(lambda: frame.is_visible() and frame.get_attribute("max") == "2")
    visit.set("Frame", "2")
    shown = visit.changed(shown)
    # another question begins other answers; the pictures stay as they are
    readings = explorer.read(folder / "a.mp4", "Who?")
    tokens = [list(one.predictions) for one in explorer.show(readings, Choices(1, frame=2))]
    default = [list(one.predictions) for one in explorer.show(explorer.read(folder / "a.mp4"), Choices(1, frame=2))]
    assert default != tokens
    visit.until(lambda: visit.predictions() == default)
    page.get_by_label("Question").fill("Who?")
    page.get_by_role("button", name="Ask", exact=True).click()
    visit.until(lambda: visit.predictions() == tokens)
    # a click is counted in the picture of this file, which is not square
    height, width = (side // 14 for side in readings[0].pictures.shape[1:3])
    row, column = height - 1, width - 2
    box = visit.images.nth(1).bounding_box()
    x, y = (column + 0.5) / width, (row + 0.5) / height
    visit.images.nth(1).click(position={"x": x * box["width"], "y": y * box["height"]})
    visit.changed(shown)
    asked = explorer.show(readings, Choices(1, point=(x, y), frame=2))
    assert height != width and all(f"row {row}, column {column}" in one.asking for one in asked)
    for one in asked:
        visit.says(one.asking)
    page.get_by_role("button", name="Ask all probes").click()
    visit.says("Asking: all probes")
    page.get_by_label("Probe").click()
    page.get_by_role("option", name="1", exact=True).click()
    visit.says("Asking: probe 1")
    page.get_by_label("Clear").first.click()
    visit.drop(folder / "bad.png")
    visit.says("This file cannot be shown")
    visit.check()
