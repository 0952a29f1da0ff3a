"""The page, with Gradio (`pip install 'dna-hf[demo]'`)."""

from typing import Any

from ..analysis.errors import AnalysisError
from ..data.errors import DataError
from .explore import MAPS, Explorer, Reading, Shown, View, asking, has_negative_scale, has_two_branches


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


def build_app(explorer: Explorer) -> Any:
    """The page for the models of an explorer, not yet served.

    Returns:
        A `gradio.Blocks`.

    Raises:
        AnalysisError: if Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise AnalysisError(NO_GRADIO) from error
    models = explorer.models
    has_scale = any(has_negative_scale(each.model) for each in models)
    everyone = f"Asking: {explorer.everyone}"
    with gr.Blocks(title="Denoising Attention", analytics_enabled=False) as app:
        gr.Markdown(f"# Where attention goes: {', '.join(each.label for each in models)}\n{ABOUT}{explorer.about}")
        readings, point = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                # of type file, so that a bad file reaches this code, which says what is wrong with it
                upload = gr.File(label=f"Drop {explorer.media} here", height=110)
                question = gr.Textbox(
                    explorer.question,
                    label="Question",
                    placeholder=explorer.question,
                    submit_btn="Ask",
                    visible=explorer.question is not None,
                )
                layer = gr.Slider(0, explorer.layers - 1, explorer.layers - 1, step=1, label=explorer.layer_name)
                head = gr.Dropdown(_choices(explorer.heads), value=ALL, label="Head")
                probe = gr.Dropdown(_choices(explorer.probes), value=ALL, label="Probe", visible=explorer.probes > 0)
                # how many there are, a file says
                frame = gr.Slider(0, 1, 0, step=1, label="Frame", visible=False)
                opacity = gr.Slider(0.1, 1, 0.85, step=0.05, label="Opacity")
                strength = gr.Slider(
                    0, 2, 1, step=0.1, label="Alpha x", info="0 turns the negative branch off", visible=has_scale
                )
                asked = gr.Markdown(everyone)
                reset = gr.Button(f"Ask {explorer.everyone}", size="sm")
            with gr.Column(scale=3):
                outputs: list[Any] = [asked]
                seen: list[Any] = []
                for each in models:
                    # softmax attention has one branch
                    names = MAPS if has_two_branches(each.model) else {"positive": "attention"}
                    with gr.Row():
                        label = gr.Label(label=each.label, min_width=200)
                        with gr.Column(scale=4, min_width=200):
                            shown = _pictures(gr, names, explorer.pictures_per_row)
                    outputs += [label, *shown]
                    seen += shown
        controls = [readings, layer, head, point, probe, frame, opacity, strength]

        def draw(readings: list[Reading] | None, *position: Any) -> list:
            if readings is None:
                return [everyone] + [None] * (len(outputs) - 1)
            layer, head, point, probe, frame, opacity, strength = position
            view = View(int(layer), _number(head), point, _number(probe), int(frame), float(opacity), float(strength))
            try:
                found = explorer.show(readings, view)
            except AnalysisError as error:
                raise gr.Error(str(error), print_exception=False) from error
            return [asking(found), *(value for one in found for value in _values(one))]

        def read(path: str | None, question: str | None) -> Any:
            if path is None:
                return None, None, ALL, gr.Slider(value=0, visible=False)
            try:
                found = explorer.read(path, question or "")
            except DataError as error:
                # what was there stays
                raise gr.Error(f"This file cannot be shown: {error}", print_exception=False) from error
            frames = min(len(each.pictures) for each in found)
            return found, None, ALL, gr.Slider(maximum=max(frames - 1, 1), value=0, visible=frames > 1)

        def ask(readings: list[Reading] | None, question: str) -> list[Reading] | None:
            try:
                # not the file that was dropped last, which may be a bad one
                return None if readings is None else explorer.read(readings[0].path, question)
            except DataError as error:
                raise gr.Error(f"This cannot be asked: {error}", print_exception=False) from error

        # Gradio reads the type of the event
        def click(picture: Any, event: gr.SelectData) -> tuple[tuple[float, float], None]:
            height, width = picture.shape[:2]
            # of several models, each may choose another probe
            return ((event.index[0] + 0.5) / width, (event.index[1] + 0.5) / height), None

        quietly: dict[str, Any] = {"show_progress": "hidden"}
        upload.change(read, [upload, question], [readings, point, probe, frame], show_progress_on=asked).success(
            draw, controls, outputs
        )
        question.submit(ask, [readings, question], readings, show_progress_on=asked).success(draw, controls, outputs)
        for control in (layer, head, frame, opacity, strength):
            control.change(draw, controls, outputs, trigger_mode="always_last", **quietly)
        # by hand alone: a click on a picture changes it, too
        probe.input(lambda: None, None, point).success(draw, controls, outputs, **quietly)
        for picture in seen:
            picture.select(click, picture, [point, probe]).success(draw, controls, outputs, **quietly)
        reset.click(lambda: (None, ALL), None, [point, probe]).success(draw, controls, outputs, **quietly)
    return app


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


def _choices(count: int) -> list[str]:
    return [ALL, *map(str, range(count))]


def _number(choice: str | None) -> int | None:
    return None if choice in (None, ALL) else int(choice)


def _values(shown: Shown) -> list[Any]:
    """The values of the elements of one model; a map that its variant lacks stays empty."""
    return [shown.predictions, shown.picture, *(shown.maps.get(name) for name in MAPS)]


def serve(explorer: Explorer, host: str, port: int | None, *, block: bool = True) -> Any:
    """Serve the page; nothing is sent anywhere else.

    Args:
        explorer: the models.
        host: address to listen on, by the command line `127.0.0.1`.
        port: to listen on; the first free one from 7860 on if `None`.
        block: until the process is interrupted.

    Raises:
        AnalysisError: if Gradio is not installed, or the port is taken.
    """
    app = build_app(explorer)
    try:
        app.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=not block, max_file_size="200mb"
        )
    except OSError as error:
        raise AnalysisError(f"cannot listen on {host}, port {port}: {error}.") from error
    return app


__all__ = ["build_app", "serve"]
