"""The rendered example cards are those that the code renders, and state the paper's figures as reported alone."""

import importlib.util

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session

from tests.kit.fake_hub import FakeHub
from tests.kit.paths import ROOT


spec = importlib.util.spec_from_file_location("render_model_cards", ROOT / "scripts" / "render_model_cards.py")
cards = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cards)

VARIANTS = ("dna", "dna_shared_value", "softmax", "differential", "cog")


@pytest.mark.parametrize("variant", VARIANTS)
def test_card_is_up_to_date(variant):
    path = ROOT / "model_cards" / f"{cards.file_name(variant)}.md"
    assert path.read_text() == cards.render(variant), "run scripts/render_model_cards.py"


def test_card_of_videos_is_up_to_date():
    path = ROOT / "model_cards" / f"{cards.VIDEO_CARD}.md"
    assert path.read_text() == cards.render_video(), "run scripts/render_model_cards.py"
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "video-classification" and card.data.eval_results is None
    # as counted in the authors' code
    assert "| parameters | 149,915,056 (counted) |" in card.text
    assert "| multiply-accumulates per video | 246.29 G (counted) |" in card.text


@pytest.mark.parametrize(("variant", "parameters"), [("dna", "8,276,922,272"), ("softmax", "8,205,196,016")])
def test_card_of_video_language_models_is_up_to_date(variant, parameters):
    path = ROOT / "model_cards" / f"{cards.video_llm_file_name(variant)}.md"
    assert path.read_text() == cards.render_video_llm(variant), "run scripts/render_model_cards.py"
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "video-text-to-text" and card.data.eval_results is None
    assert f"| parameters | {parameters} (counted) |" in card.text
    measured, _, rest = card.text.partition("## Measured")[2].partition("##")
    assert measured.strip() == "Nothing: there are no weights."
    for value in cards.VIDEO_LLM_REPORTED[variant]:
        assert f"| {value} % | the authors" in rest


@pytest.mark.parametrize("variant", VARIANTS)
def test_reported_figures_are_stated_as_reported(variant):
    card = ModelCard.load(ROOT / "model_cards" / f"{cards.file_name(variant)}.md")
    assert card.data.eval_results is None
    measured, _, rest = card.text.partition("## Measured")[2].partition("##")
    assert measured.strip() == "Nothing: there are no weights."
    reported = rest.partition("## Training")[0] if variant in cards.REPORTED else ""
    for value in cards.REPORTED.get(variant, ()):
        assert f"| {value} % | the authors" in reported
        assert f"{value} %" not in card.text.replace(reported, "")


def test_template_is_the_one_in_use():
    from dna_hf.hub.model_card import TEMPLATE

    assert (ROOT / "model_cards" / "template.md").read_text() == TEMPLATE.read_text()


@pytest.mark.skipif(huggingface_hub.__version__ < "2", reason="older clients validate at huggingface.co only")
def test_the_hub_accepts_the_metadata(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        close_session()
        for variant in VARIANTS:
            ModelCard.load(ROOT / "model_cards" / f"{cards.file_name(variant)}.md").validate()
        for name in (cards.VIDEO_CARD, *map(cards.video_llm_file_name, cards.VIDEO_LLM_REPORTED)):
            ModelCard.load(ROOT / "model_cards" / f"{name}.md").validate()
        assert hub.requests == [("POST", "/api/validate-yaml")] * (len(VARIANTS) + 3)
    close_session()
