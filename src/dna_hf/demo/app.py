"""The page, with Gradio (`pip install 'dna-hf[demo]'`)."""

from dataclasses import dataclass
from typing import Any

from ..analysis.errors import AnalysisError
from ..data.errors import DataError
from ..data.problem_types import MULTI_LABEL
from ..errors import told_as
from ..evaluation.class_answers import answer_type
from ..kinds import CLASSIFIERS, Loaded, threshold_of
from .address import check_address
from .explore import MAPS, Choices, Explorer, Reading, Shown, asking, has_negative_scale, has_two_branches


NO_GRADIO = "the demo needs Gradio, which is not installed: pip install 'dna-hf[demo]'."
ABOUT = """
Every head of Denoising Attention has two branches: **red** is what the positive branch attends to, **blue** what the
negative branch attends to; *combined* is positive + alpha x negative, the weights with which values shared by both
branches would be summed.
"""
# of each model
PICTURES = ("what the model sees", *MAPS)
# the choice that is no number
ALL = "mean"


@dataclass
class Controls:
    """The elements that a visitor chooses with; `readings` and `point` are kept between events, and not seen."""

    readings: Any
    point: Any
    upload: Any
    question: Any
    layer: Any
    head: Any
    probe: Any
    frame: Any
    opacity: Any
    strength: Any
    asked: Any
    reset: Any

    @property
    def position(self) -> list[Any]:
        """What a picture depends on, in the order of [`Events.draw`]."""
        return [
            *(self.readings, self.layer, self.head, self.point, self.probe),
            *(self.frame, self.opacity, self.strength),
        ]


def build_app(explorer: Explorer) -> Any:
    """The page for the models of an explorer, not yet served.

    Returns:
        A `gradio.Blocks`.

    Raises:
        AnalysisError: if Gradio is not installed.
    """
    gr = import_gradio()
    with gr.Blocks(title="Denoising Attention", analytics_enabled=False) as app:
        labels = ", ".join(each.label for each in explorer.models)
        gr.Markdown(f"# Where attention goes: {labels}\n{ABOUT}{explorer.about}")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                controls = _controls(gr, explorer)
            with gr.Column(scale=3):
                outputs, pictures = _models(gr, explorer)
        _connect(gr, Events(gr, explorer, len(outputs)), controls, [controls.asked, *outputs], pictures)
    return app


def import_gradio() -> Any:
    """The module Gradio.

    Raises:
        AnalysisError: if it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise AnalysisError(NO_GRADIO) from error
    return gradio


def _controls(gr: Any, explorer: Explorer) -> Controls:
    has_scale = any(has_negative_scale(each.model) for each in explorer.models)
    return Controls(
        readings=gr.State(None),
        point=gr.State(None),
        # of type file, so that a bad file reaches this code, which says what is wrong with it
        upload=gr.File(label=f"Drop {explorer.media} here", height=110),
        question=gr.Textbox(
            explorer.question,
            label="Question",
            placeholder=explorer.question,
            submit_btn="Ask",
            visible=explorer.question is not None,
        ),
        layer=gr.Slider(0, explorer.layers - 1, explorer.layers - 1, step=1, label=explorer.layer_name),
        head=gr.Dropdown(_entries(explorer.heads), value=ALL, label="Head"),
        probe=gr.Dropdown(_entries(explorer.probes), value=ALL, label="Probe", visible=explorer.probes > 0),
        # how many there are, a file says
        frame=gr.Slider(0, 1, 0, step=1, label="Frame", visible=False),
        opacity=gr.Slider(0.1, 1, 0.85, step=0.05, label="Opacity"),
        strength=gr.Slider(
            0, 2, 1, step=0.1, label="Alpha x", info="0 turns the negative branch off", visible=has_scale
        ),
        asked=gr.Markdown(_nobody(explorer)),
        reset=gr.Button(f"Ask {explorer.everyone}", size="sm"),
    )


def _nobody(explorer: Explorer) -> str:
    """Who attends before anything is clicked."""
    return f"Asking: {explorer.everyone}"


def _models(gr: Any, explorer: Explorer) -> tuple[list[Any], list[Any]]:
    """A row for each model; returns the elements that show something, and the pictures among them."""
    outputs: list[Any] = []
    seen: list[Any] = []
    for loaded in explorer.models:
        # softmax attention has one branch
        names = MAPS if has_two_branches(loaded.model) else {"positive": "attention"}
        with gr.Row():
            # a model without a classifier predicts nothing
            label = gr.Label(
                label=_heading(loaded),
                min_width=200,
                visible=loaded.has_head,
                # which is the likeliest class: of several labels, any number of classes may hold
                show_heading=not _has_several_labels(loaded),
            )
            with gr.Column(scale=4, min_width=200):
                if not loaded.has_head:
                    gr.Markdown(f"**{loaded.label}** (it has no classifier)")
                shown = _pictures(gr, names, explorer.pictures_per_row)
        outputs += [label, *shown]
        seen += shown
    return outputs, seen


def _heading(loaded: Loaded) -> str:
    """The name of a model, and above which probability its classes hold, where that is a question."""
    if not _has_several_labels(loaded):
        return loaded.label
    return f"{loaded.label}: a class holds above {100 * threshold_of(loaded.model.config):g}%"


def _has_several_labels(loaded: Loaded) -> bool:
    return loaded.kind in CLASSIFIERS and answer_type(loaded.model.config) == MULTI_LABEL


def _pictures(gr: Any, names: dict[str, str], per_row: int) -> list[Any]:
    """The elements of the pictures of one model; what has no name is there, but not seen."""
    elements = []
    for start in range(0, len(PICTURES), per_row):
        with gr.Row():
            elements += [
                gr.Image(
                    label=names.get(name, MAPS.get(name, name)),
                    interactive=False,
                    min_width=120,
                    buttons=[],
                    visible=name not in MAPS or name in names,
                )
                for name in PICTURES[start : start + per_row]
            ]
    return elements


class Events:
    """What a visitor can do; what cannot be done is said on the page.

    Args:
        gr: the module `gradio`.
        explorer: the models that the page shows.
        elements: number of elements that show something of the models.
    """

    def __init__(self, gr: Any, explorer: Explorer, elements: int) -> None:
        self.gr, self.explorer, self.elements = gr, explorer, elements

    def draw(self, readings: list[Reading] | None, *position: Any) -> list:
        """What all elements show for a file and a position of the controls; nothing without a file."""
        if readings is None:
            return [_nobody(self.explorer)] + [None] * self.elements
        layer, head, point, probe, frame, opacity, strength = position
        choices = Choices(
            int(layer), _number(head), point, _number(probe), int(frame), float(opacity), float(strength)
        )
        try:
            found = self.explorer.show(readings, choices)
        except AnalysisError as error:
            raise self.gr.Error(str(error), print_exception=False) from error
        return [asking(found), *(value for one in found for value in _values(one))]

    def read(self, path: str | None, question: str | None) -> Any:
        """A file that was dropped, as the models take it; a picture has one frame."""
        if path is None:
            return None, None, ALL, self.gr.Slider(value=0, visible=False)
        try:
            found = self.explorer.read(path, question or "")
        except DataError as error:
            # what was there stays
            raise self.gr.Error(f"This file cannot be shown: {error}", print_exception=False) from error
        frames = min(len(each.pictures) for each in found)
        return found, None, ALL, self.gr.Slider(maximum=max(frames - 1, 1), value=0, visible=frames > 1)

    def ask(self, readings: list[Reading] | None, question: str) -> list[Reading] | None:
        """The file that is shown, with another question."""
        try:
            # not the file that was dropped last, which may be a bad one
            return None if readings is None else self.explorer.read(readings[0].path, question)
        except DataError as error:
            raise self.gr.Error(f"This cannot be asked: {error}", print_exception=False) from error


def _connect(gr: Any, events: Events, controls: Controls, outputs: list[Any], pictures: list[Any]) -> None:
    """Let the elements of the page call the events."""

    # Gradio reads the type of the event
    def click(picture: Any, event: gr.SelectData) -> tuple[tuple[float, float], None]:
        height, width = picture.shape[:2]
        # of several models, each may choose another probe
        return ((event.index[0] + 0.5) / width, (event.index[1] + 0.5) / height), None

    readings, point, probe = controls.readings, controls.point, controls.probe
    drawn = (events.draw, controls.position, outputs)
    quietly: dict[str, Any] = {"show_progress": "hidden"}
    slowly: dict[str, Any] = {"show_progress_on": controls.asked}
    controls.upload.change(
        events.read, [controls.upload, controls.question], [readings, point, probe, controls.frame], **slowly
    ).success(*drawn)
    controls.question.submit(events.ask, [readings, controls.question], readings, **slowly).success(*drawn)
    for control in (controls.layer, controls.head, controls.frame, controls.opacity, controls.strength):
        control.change(*drawn, trigger_mode="always_last", **quietly)
    # by hand alone: a click on a picture changes it, too
    probe.input(lambda: None, None, point).success(*drawn, **quietly)
    for picture in pictures:
        picture.select(click, picture, [point, probe]).success(*drawn, **quietly)
    controls.reset.click(lambda: (None, ALL), None, [point, probe]).success(*drawn, **quietly)


def _entries(count: int) -> list[str]:
    return [ALL, *map(str, range(count))]


def _number(choice: str | None) -> int | None:
    return None if choice in (None, ALL) else int(choice)


def _values(shown: Shown) -> list[Any]:
    """The values of the elements of one model; a map that its variant lacks stays empty."""
    return [_label(shown), shown.picture, *(shown.maps.get(name) for name in MAPS)]


def _label(shown: Shown) -> Any:
    """The value of a `gradio.Label`: bars are for probabilities; values, which may be any number, stand as text."""
    if shown.is_regression:
        return ", ".join(f"{name} {value:.6g}" for name, value in shown.predictions.items())
    return shown.predictions or None


def serve(explorer: Explorer, host: str, port: int | None, *, block: bool = True) -> Any:
    """Serve the page; nothing is sent anywhere else.

    Args:
        explorer: the models that the page shows.
        host: name or address to listen on; the command line says `127.0.0.1`.
        port: port to listen on; the first free one from 7860 on if `None`.
        block: whether to wait until the process is interrupted.

    Raises:
        AnalysisError: if Gradio is not installed, there is no such host, or the port is taken.
    """
    check_address(host, port)
    app = build_app(explorer)
    with told_as(AnalysisError, f"cannot serve the page on {host}"):
        app.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=not block, max_file_size="200mb"
        )
    return app


__all__ = ["build_app", "import_gradio", "serve"]
