"""The maps of a few fixed images while a model is trained."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from .drawing import pictures
from .figures import FigureRow, Panel, map_figure, new_figure, save_figure
from .maps import visual_maps


class SaveAttentionMaps(TrainerCallback):
    """Draws the class token's maps of the same images before training and after every epoch.

    They go to `attention_maps/epoch_00.png`, `epoch_01.png`, ... in the output folder of the run; the panels of an
    image share one scale. The model is put into evaluation mode and draws no random numbers, so that training goes on
    as it would without this. Not for models whose parameters are sharded over processes.

    Args:
        pixel_values: (images, channels, height, width), as the model takes them.
        processor: the processor that made `pixel_values`, to undo its normalisation.
        layer: number of the layer, counted from 0, negative ones from the end.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.

    Raises:
        AnalysisError: without matplotlib, at once.
    """

    def __init__(self, pixel_values: torch.Tensor, processor: Any, layer: int = -1, colours: str = "red-blue") -> None:
        new_figure(1, 1)
        self.pixel_values, self.processor = pixel_values, processor
        self.layer, self.colours = layer, colours

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the first step, also when a run resumes: then the maps are there already."""
        if not state.global_step:
            self._save(args, state, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after the last step of an epoch."""
        self._save(args, state, kwargs["model"])

    def _save(self, args: Any, state: Any, model: Any) -> None:
        if not state.is_world_process_zero:
            return
        epoch = round(state.epoch or 0)
        inputs = {"pixel_values": self.pixel_values.to(model.dtype)}
        heats = [maps.heat() for maps in visual_maps(model, inputs, layers=[self.layer])]
        rows = []
        for number, (heat, picture) in enumerate(zip(heats, pictures(self.pixel_values, self.processor), strict=True)):
            panels = [Panel(heat.title(name), heat.drawn(name)[0]) for name in heat.branches()]
            rows.append(FigureRow(f"image {number}", picture, panels))
        layer = "last layer" if self.layer == -1 else f"layer {self.layer}"
        figure = map_figure(
            rows,
            f"epoch {epoch}: attention of the class token, {layer}, mean over heads",
            colours=self.colours,
            unit="attention (even = 1)",
            panel_size=1.3,
        )
        save_figure(figure, Path(args.output_dir, "attention_maps", f"epoch_{epoch:02d}.png"), dpi=100)
