"""The page of the demo in a browser: pictures, sliders, clicks and bad files."""

import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from analysis.tiny_models import tiny_vit
from dna_hf.analysis import AnalysisError
from dna_hf.demo.app import build_app, serve
from dna_hf.demo.explore import load_explorer


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
    return folder


@pytest.mark.skipif(find_spec("gradio") is not None, reason="gradio is installed")
def test_without_gradio(folder):
    with pytest.raises(AnalysisError, match="pip install 'dna-hf\\[demo\\]'"):
        build_app(load_explorer([str(folder / "dna")]))


@needs_a_browser
def test_page_in_a_browser(folder):
    from playwright.sync_api import sync_playwright

    app = serve(load_explorer([str(folder / "dna"), str(folder / "softmax")]), "127.0.0.1", None, block=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        errors, hosts = [], set()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
        page.goto(app.local_url)
        page.set_input_files("input[type=file]", folder / "a.png")
        images = page.locator("img[src*='/file=']")

        def sources():
            return [images.nth(number).get_attribute("src") for number in range(images.count())]

        def changed(before):
            page.wait_for_function(
                "before => { const now = [...document.querySelectorAll(\"img[src*='/file=']\")].map(i => "
                "i.getAttribute('src')); return now.length >= before.length && now.length > 0 && "
                "JSON.stringify(now) !== JSON.stringify(before); }",
                arg=before,
                timeout=60_000,
            )
            page.wait_for_timeout(500)
            return sources()

        shown = changed([])
        # four pictures of denoising attention, three of softmax attention less the negative branch that it lacks
        page.wait_for_function("document.querySelectorAll(\"img[src*='/file=']\").length >= 6", timeout=60_000)
        shown = sources()
        page.get_by_label("number input for Alpha x").fill("0")
        page.keyboard.press("Tab")
        without = changed(shown)
        assert without != shown
        images.nth(1).click(position={"x": 5, "y": 5})
        asked = changed(without)
        assert page.get_by_text("Asking: the patch in row 0, column 0").count() == 1
        page.get_by_label("Clear").first.click()
        page.set_input_files("input[type=file]", folder / "bad.png")
        message = page.get_by_text("This file cannot be shown")
        message.first.wait_for(timeout=60_000)
        assert asked and not errors and hosts == {app.local_url.split("/")[2]}
        browser.close()
    app.close()
