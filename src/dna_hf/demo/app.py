"""The page, with Gradio (`pip install 'dna-hf[demo]'`)."""

from typing import Any

from transformers import PreTrainedConfig

from ..analysis.errors import AnalysisError
from ..data.errors import DataError
from .explore import MAPS, Explorer, Shown, View, has_negative_scale, has_two_branches, patch_at, picture_size


NO_GRADIO = "the demo needs Gradio, which is not installed: pip install 'dna-hf[demo]'."
ASKING_CLASS = "Asking: the class token"
ABOUT = """
Every head of Denoising Attention has two branches: **red** is what the positive branch attends to, **blue** what the
negative branch attends to; *combined* is positive + alpha x negative, the weights with which values shared by both
branches would be summed. Click on a picture to ask what that patch attends to, and what it pushes away.
"""


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
    classifiers = explorer.classifiers
    heads = ["mean", *map(str, range(explorer.heads))]
    has_scale = any(has_negative_scale(each.model) for each in classifiers)
    with gr.Blocks(title="Denoising Attention", analytics_enabled=False) as app:
        gr.Markdown(f"# Where attention goes: {', '.join(each.label for each in classifiers)}\n{ABOUT}")
        tensors, point = gr.State(None), gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                what = "a video" if explorer.is_video else "an image"
                # of type file, so that a bad file reaches this code, which says what is wrong with it
                upload = gr.File(label=f"Drop {what} here", height=110)
                layer = gr.Slider(0, explorer.layers - 1, explorer.layers - 1, step=1, label="Layer")
                head = gr.Dropdown(heads, value="mean", label="Head")
                frame = gr.Slider(
                    0, max(explorer.frames - 1, 1), 0, step=1, label="Frame", visible=explorer.frames > 1
                )
                opacity = gr.Slider(0.1, 1, 0.85, step=0.05, label="Opacity")
                strength = gr.Slider(
                    0, 2, 1, step=0.1, label="Alpha x", info="0 turns the negative branch off", visible=has_scale
                )
                asking = gr.Markdown(ASKING_CLASS)
                reset = gr.Button("Ask the class token", size="sm")
            with gr.Column(scale=3):
                outputs: list[Any] = []
                seen: list[Any] = []
                for classifier in classifiers:
                    # softmax attention has one branch
                    names = MAPS if has_two_branches(classifier.model) else {"positive": "attention"}
                    with gr.Row():
                        label = gr.Label(label=classifier.label, num_top_classes=5, min_width=150)
                        shown = [
                            gr.Image(
                                label=names.get(name, MAPS.get(name, name)),
                                interactive=False,
                                min_width=120,
                                buttons=[],
                                visible=name not in MAPS or name in names,
                            )
                            for name in ("what the model sees", *MAPS)
                        ]
                    outputs += [label, *shown]
                    seen += [(picture, classifier.model.config) for picture in shown]
        controls = [tensors, point, layer, head, frame, opacity, strength]

        def draw(tensors: Any, point: Any, layer: int, head: str, frame: int, opacity: float, strength: float) -> list:
            if tensors is None:
                return [None] * len(outputs)
            number = None if head == "mean" else int(head)
            view = View(int(layer), number, point, int(frame), float(opacity), float(strength))
            try:
                found = explorer.show(tensors, view)
            except AnalysisError as error:
                raise gr.Error(str(error)) from error
            return [value for one in found for value in _values(one)]

        def read(path: str | None) -> Any:
            if path is None:
                return None, None, ASKING_CLASS
            try:
                return explorer.read(path), None, ASKING_CLASS
            except DataError as error:
                # what was there stays
                raise gr.Error(f"This file cannot be shown: {error}") from error

        upload.change(read, upload, [tensors, point, asking]).success(draw, controls, outputs)
        for control in (layer, head, frame, opacity, strength):
            control.change(draw, controls, outputs, show_progress="hidden", trigger_mode="always_last")
        for picture, config in seen:
            picture.select(_asker(gr, config), None, [point, asking]).success(
                draw, controls, outputs, show_progress="hidden"
            )
        reset.click(lambda: (None, ASKING_CLASS), None, [point, asking]).success(
            draw, controls, outputs, show_progress="hidden"
        )
    return app


def _asker(gr: Any, config: PreTrainedConfig) -> Any:
    """What a click on a picture of a model does: it chooses the point that asks, and says so."""
    height, width = picture_size(config)

    # Gradio reads the type of the argument
    def ask(event: gr.SelectData) -> tuple[tuple[float, float], str]:
        point = (event.index[0] / width, event.index[1] / height)
        row, column = patch_at(config, point)
        return point, f"Asking: the patch in row {row}, column {column}"

    return ask


def _values(shown: Shown) -> list[Any]:
    """The values of the elements of one model; a map that its variant lacks stays empty."""
    return [shown.classes, shown.picture, *(shown.maps.get(name) for name in MAPS)]


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
