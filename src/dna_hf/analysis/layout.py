"""Where the tokens of an attention module lie in the images and videos of a batch.

A visual is an image or a video. Patches are counted by frame, row and column, whatever the order in which a model
keeps them; an image has one frame. In front of them come the prefix tokens: the class token and, if there is one, the
distillation token.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.modeling_dna_timesformer import DnATimesformerEmbeddings
from ..models.modeling_dna_video_llama3 import DnAVideoLlama3VisionModel
from ..models.modeling_dna_vit import DnAViTEmbeddings
from .errors import AnalysisError


Query = int | str | tuple[int, ...]
CLASS = "class"
# all probes of a video language model
PROBES = "probes"


@dataclass(frozen=True)
class TokenGrid:
    """How one visual is cut into patches.

    Args:
        frames: number of frames of a video; 1 for an image.
        rows: rows of patches in a frame.
        columns: columns of patches in a frame.
        prefix: number of tokens in front of the patches.
    """

    frames: int
    rows: int
    columns: int
    prefix: int = 0

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return self.rows * self.columns


class Placed(NamedTuple):
    """The weights of one visual, by where their keys lie.

    `patches` is (heads, queries, frames, rows, columns), `prefix` (heads, queries, 1 or frames, prefix tokens).
    """

    patches: torch.Tensor
    prefix: torch.Tensor


class TokenLayout:
    """The tokens of the visuals of one call of a model; here images, each with its prefix tokens, then patches.

    A query is named by a number, 0 the class token, `"class"`, or the place of a patch, (row, column).
    """

    def __init__(self, grids: Sequence[TokenGrid]) -> None:
        self.grids = list(grids)

    def num_queries(self, axis: str) -> int:
        """How many queries have a name."""
        return self.grids[0].prefix + self.grids[0].patches

    def default_queries(self, axis: str) -> list[int]:
        """The queries that are looked at unless others are named."""
        return [0]

    def query(self, query: Query, axis: str) -> int:
        """The number of a query.

        Raises:
            AnalysisError: if there is no such query.
        """
        count = self.num_queries(axis)
        number: int | None = None
        if query == CLASS:
            number = 0 if self.grids[0].prefix and axis != "time" else None
        elif isinstance(query, tuple):
            number = self._patch_query(query, axis)
        elif isinstance(query, int) and -count <= query < count:
            number = query % count
        if number is None:
            raise AnalysisError(f"query {query!r} does not exist: {self.describe_queries(axis)}.")
        return number

    def describe_queries(self, axis: str) -> str:
        """Which queries there are, in words."""
        grid = self.grids[0]
        return (
            f"there are {self.num_queries(axis)}, counted from 0 (the class token), and the patches (row, column) of "
            f"{grid.rows} rows and {grid.columns} columns"
        )

    def _patch_query(self, place: tuple[int, ...], axis: str) -> int | None:
        grid = self.grids[0]
        if len(place) != 2 or not (0 <= place[0] < grid.rows and 0 <= place[1] < grid.columns):
            return None
        return grid.prefix + place[0] * grid.columns + place[1]

    def tokens(self, queries: Sequence[int], axis: str) -> list[int]:
        """Where the queries are among those of an attention module."""
        return list(queries)

    def place(self, weights: torch.Tensor, axis: str) -> list[Placed]:
        """Weights (sequences, heads, queries, keys) of an attention module, by visual and place of the key."""
        grid = self.grids[0]
        # (visuals, heads, queries, keys) -> (visuals, heads, queries, 1 frame, keys)
        weights = weights.unsqueeze(3)
        return [
            Placed(own[..., grid.prefix :].unflatten(-1, (grid.rows, grid.columns)), own[..., : grid.prefix])
            for own in weights
        ]

    def start(self, queries: Sequence[int], shared: bool) -> torch.Tensor:
        """One row of weights (visuals, tokens) that is 1 on each of the queries, to be pushed through layers.

        Args:
            queries: numbers of the queries.
            shared: whether queries of several frames share the 1; see [`push`].
        """
        grid = self.grids[0]
        row = torch.zeros(len(self.grids), grid.prefix + grid.frames * grid.patches)
        row[:, list(queries)] = 1.0
        return row

    def push(self, row: torch.Tensor, weights: torch.Tensor, axis: str, shared: bool) -> torch.Tensor:
        """The row (visuals, tokens) times the map of a layer, without its residual connection.

        Args:
            row: how much each token counts after the layer.
            weights: (sequences, queries, keys), of all queries.
            axis: axis of the layer's attention: `space`, `time` or `space_time`.
            shared: where the class token stands in several sequences, whether each of them gets its part of the
                weight (of a mean) or all of it (of gradients, which hold that part already).
        """
        return torch.bmm(row.unsqueeze(1), weights).squeeze(1)

    def heat(self, row: torch.Tensor) -> list[torch.Tensor]:
        """A row (visuals, tokens) as one (frames, rows, columns) per visual, without the prefix tokens."""
        grid = self.grids[0]
        return list(row[:, grid.prefix :].unflatten(1, (grid.frames, grid.rows, grid.columns)))


class JointLayout(TokenLayout):
    """A class token and the patches of all frames in one sequence; the model counts the frames fastest.

    A query is named by a number, 0 the class token and then by frame, row and column, or (frame, row, column).
    """

    def num_queries(self, axis: str) -> int:
        """How many queries have a name."""
        return self.grids[0].prefix + self.grids[0].frames * self.grids[0].patches

    def describe_queries(self, axis: str) -> str:
        """Which queries there are, in words."""
        grid = self.grids[0]
        return (
            f"there are {self.num_queries(axis)}, counted from 0 (the class token), and the patches (frame, row, "
            f"column) of {grid.frames} frames, {grid.rows} rows and {grid.columns} columns"
        )

    def _patch_query(self, place: tuple[int, ...], axis: str) -> int | None:
        grid = self.grids[0]
        if len(place) != 3 or not 0 <= place[0] < grid.frames:
            return None
        within = super()._patch_query(place[1:], axis)
        return None if within is None else place[0] * grid.patches + within

    def _order(self) -> torch.Tensor:
        """For each token, by frame, row and column: where the model keeps it.

        With 2 frames of 3 patches behind a class token, the model has (class, a0, a1, b0, b1, c0, c1) and this is
        (0, 1, 3, 5, 2, 4, 6).
        """
        grid = self.grids[0]
        # (patches, frames) as the model counts -> (frames, patches)
        kept = torch.arange(grid.patches * grid.frames).unflatten(0, (grid.patches, grid.frames)).T.flatten()
        return torch.cat((torch.arange(grid.prefix), grid.prefix + kept))

    def tokens(self, queries: Sequence[int], axis: str) -> list[int]:
        """Where the queries are among those of an attention module."""
        return self._order()[list(queries)].tolist()

    def place(self, weights: torch.Tensor, axis: str) -> list[Placed]:
        """Weights (sequences, heads, queries, keys) of an attention module, by visual and place of the key."""
        grid = self.grids[0]
        # keys by frame, row and column: (visuals, heads, queries, prefix + frames * rows * columns)
        weights = weights[..., self._order().to(weights.device)]
        patches = weights[..., grid.prefix :].unflatten(-1, (grid.frames, grid.rows, grid.columns))
        prefix = weights[..., : grid.prefix].unsqueeze(3)
        return [Placed(*own) for own in zip(patches, prefix, strict=True)]

    def push(self, row: torch.Tensor, weights: torch.Tensor, axis: str, shared: bool) -> torch.Tensor:
        """The row (visuals, tokens) times the map of a layer, without its residual connection."""
        order = self._order().to(row.device)
        kept = torch.empty_like(row)
        kept[:, order] = row
        return super().push(kept, weights, axis, shared)[:, order]


class FramesLayout(TokenLayout):
    """Every frame of a video a sequence of its own, with a class token of its own.

    A query is named as in an image; it asks in every frame at once.
    """

    def place(self, weights: torch.Tensor, axis: str) -> list[Placed]:
        """Weights (sequences, heads, queries, keys) of an attention module, by visual and place of the key."""
        grid = self.grids[0]
        # (visuals * frames, heads, queries, keys) -> (visuals, heads, queries, frames, keys)
        weights = weights.unflatten(0, (-1, grid.frames)).permute(0, 2, 3, 1, 4)
        return [
            Placed(own[..., grid.prefix :].unflatten(-1, (grid.rows, grid.columns)), own[..., : grid.prefix])
            for own in weights
        ]

    def start(self, queries: Sequence[int], shared: bool) -> torch.Tensor:
        """One row of weights (visuals * frames, tokens of a frame): every frame is pushed on its own."""
        grid = self.grids[0]
        row = torch.zeros(len(self.grids) * grid.frames, grid.prefix + grid.patches)
        row[:, list(queries)] = 1.0 / grid.frames if shared else 1.0
        return row

    def heat(self, row: torch.Tensor) -> list[torch.Tensor]:
        """A row (visuals * frames, tokens) as one (frames, rows, columns) per visual, without the class tokens."""
        grid = self.grids[0]
        # (visuals * frames, rows, columns) -> (visuals, frames, rows, columns)
        patches = row[:, grid.prefix :].unflatten(1, (grid.rows, grid.columns))
        return list(patches.unflatten(0, (-1, grid.frames)))


class DividedLayout(FramesLayout):
    """Attention over the frames at every place, then over the places of every frame, with one class token for all.

    Over space a query is named as in an image and asks in every frame at once; over time a query is a frame, and asks
    at every place at once.
    """

    def num_queries(self, axis: str) -> int:
        """How many queries have a name."""
        return self.grids[0].frames if axis == "time" else super().num_queries(axis)

    def default_queries(self, axis: str) -> list[int]:
        """The queries that are looked at unless others are named."""
        return list(range(self.grids[0].frames)) if axis == "time" else [0]

    def describe_queries(self, axis: str) -> str:
        """Which queries there are, in words."""
        if axis != "time":
            return super().describe_queries(axis)
        return f"over time the queries are the {self.grids[0].frames} frames, counted from 0"

    def _patch_query(self, place: tuple[int, ...], axis: str) -> int | None:
        return None if axis == "time" else super()._patch_query(place, axis)

    def place(self, weights: torch.Tensor, axis: str) -> list[Placed]:
        """Weights (sequences, heads, queries, keys) of an attention module, by visual and place of the key."""
        if axis != "time":
            return super().place(weights, axis)
        grid = self.grids[0]
        # (visuals * patches, heads, queries, frames) -> (visuals, heads, queries, frames, patches)
        weights = weights.unflatten(0, (-1, grid.patches)).permute(0, 2, 3, 4, 1)
        patches = weights.unflatten(-1, (grid.rows, grid.columns))
        return [Placed(own, own.new_zeros(*own.shape[:2], 1, 0)) for own in patches]

    def start(self, queries: Sequence[int], shared: bool) -> torch.Tensor:
        """One row of weights (visuals, tokens), 1 on the class token or on a place in all frames."""
        grid = self.grids[0]
        row = torch.zeros(len(self.grids), grid.prefix + grid.frames * grid.patches)
        for query in queries:
            if query < grid.prefix:
                row[:, query] = 1.0
            else:
                row[:, query :: grid.patches] = 1.0 / grid.frames if shared else 1.0
        return row

    def push(self, row: torch.Tensor, weights: torch.Tensor, axis: str, shared: bool) -> torch.Tensor:
        """The row (visuals, tokens) times the map of a layer, without its residual connection.

        The class token takes no part in the attention over time; it comes back as 0.
        """
        grid = self.grids[0]
        first, patches = row[:, : grid.prefix], row[:, grid.prefix :].unflatten(1, (grid.frames, grid.patches))
        if axis == "time":
            # (visuals, frames, patches) -> (visuals * patches, frames), one sequence per place
            series = patches.transpose(1, 2).flatten(0, 1)
            pushed = torch.bmm(series.unsqueeze(1), weights).squeeze(1).unflatten(0, (-1, grid.patches))
            return torch.cat((torch.zeros_like(first), pushed.transpose(1, 2).flatten(1)), dim=1)
        first = first.unsqueeze(1).expand(-1, grid.frames, -1) / (grid.frames if shared else 1)
        # (visuals * frames, prefix + patches), one sequence per frame
        frames = torch.cat((first, patches), dim=2).flatten(0, 1)
        pushed = torch.bmm(frames.unsqueeze(1), weights).squeeze(1).unflatten(0, (-1, grid.frames))
        return torch.cat((pushed[..., : grid.prefix].sum(dim=1), pushed[..., grid.prefix :].flatten(1)), dim=1)

    def heat(self, row: torch.Tensor) -> list[torch.Tensor]:
        """A row (visuals, tokens) as one (frames, rows, columns) per visual, without the class token."""
        return TokenLayout.heat(self, row)


class ProbeLayout(TokenLayout):
    """The probes of all visuals, which read the patches of their own; the model keeps these in merged blocks.

    Args:
        grids: how each visual is cut into patches.
        merge_sizes: side of the blocks of each visual, in patches.
        num_probes: number of probes of each visual.
    """

    def __init__(self, grids: Sequence[TokenGrid], merge_sizes: Sequence[int], num_probes: int) -> None:
        super().__init__(grids)
        self.merge_sizes, self.num_probes = list(merge_sizes), num_probes

    def num_queries(self, axis: str) -> int:
        """How many queries have a name."""
        return self.num_probes

    def default_queries(self, axis: str) -> list[int]:
        """The queries that are looked at unless others are named."""
        return list(range(self.num_probes))

    def describe_queries(self, axis: str) -> str:
        """Which queries there are, in words."""
        return f"the queries are the {self.num_probes} probes, counted from 0"

    def _patch_query(self, place: tuple[int, ...], axis: str) -> int | None:
        return None

    def tokens(self, queries: Sequence[int], axis: str) -> list[int]:
        """Where the queries are among those of an attention module: those of all visuals, one after the other."""
        return [visual * self.num_probes + query for visual in range(len(self.grids)) for query in queries]

    def place(self, weights: torch.Tensor, axis: str) -> list[Placed]:
        """Weights (1, heads, queries of all visuals, patches of all visuals), by visual and place of the key."""
        sizes = [grid.frames * grid.patches for grid in self.grids]
        found = []
        queries = weights[0].chunk(len(self.grids), dim=1)
        for visual, (grid, merge) in enumerate(zip(self.grids, self.merge_sizes, strict=True)):
            own = queries[visual].split(sizes, dim=-1)[visual]
            blocks = own.unflatten(-1, (grid.frames, grid.rows // merge, grid.columns // merge, merge, merge))
            # (frame, row of the block, row in it, column of the block, column in it)
            patches = blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)
            found.append(Placed(patches, own.new_zeros(*own.shape[:2], 1, 0)))
        return found


@dataclass
class SeenLayouts:
    """The layouts of the calls of a model's body so far; a video language model encodes images and videos in two."""

    calls: list[TokenLayout] = field(default_factory=list)

    @property
    def layout(self) -> TokenLayout:
        """The layout of the call that is running."""
        return self.calls[-1]

    @property
    def earlier(self) -> int:
        """How many visuals the calls before that one had."""
        return sum(len(layout.grids) for layout in self.calls[:-1])


@contextmanager
def watch_layout(model: PreTrainedModel) -> Iterator[SeenLayouts]:
    """While this lasts, know where the tokens lie of whatever `model` is looking at.

    Raises:
        AnalysisError: for a model that looks at nothing whose layout is known.
    """
    bodies = [module for module in model.modules() if isinstance(module, tuple(LAYOUTS))]
    if not bodies:
        raise AnalysisError(f"{type(model).__name__} has no attention to look into: give a DnA model.")
    seen = SeenLayouts()

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        kind = next(kind for kind in LAYOUTS if isinstance(module, kind))
        seen.calls.append(LAYOUTS[kind](module, args, kwargs))

    with ExitStack() as hooks:
        for module in bodies:
            hooks.enter_context(module.register_forward_pre_hook(note, with_kwargs=True))
        yield seen


def _argument(args: tuple, kwargs: dict, position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs[name]


def _patch_grid(module: Any, pixel_values: torch.Tensor) -> tuple[int, int]:
    height, width = module.patch_embeddings.projection.kernel_size
    return pixel_values.shape[-2] // height, pixel_values.shape[-1] // width


def _image_layout(module: Any, args: tuple, kwargs: dict) -> TokenLayout:
    pixel_values = _argument(args, kwargs, 0, "pixel_values")
    grid = TokenGrid(1, *_patch_grid(module, pixel_values), prefix=module.config.num_prefix_tokens)
    return TokenLayout([grid] * len(pixel_values))


def _video_layout(module: Any, args: tuple, kwargs: dict) -> TokenLayout:
    pixel_values = _argument(args, kwargs, 0, "pixel_values")
    grid = TokenGrid(pixel_values.shape[1], *_patch_grid(module, pixel_values), prefix=1)
    kinds = {"divided_space_time": DividedLayout, "joint_space_time": JointLayout, "space_only": FramesLayout}
    return kinds[module.config.attention_type]([grid] * len(pixel_values))


def _probe_layout(module: Any, args: tuple, kwargs: dict) -> TokenLayout:
    grids = [TokenGrid(*sizes) for sizes in _argument(args, kwargs, 1, "grid_thw").tolist()]
    return ProbeLayout(grids, _argument(args, kwargs, 2, "merge_sizes").tolist(), module.config.num_probes)


LAYOUTS: dict[type[nn.Module], Any] = {
    DnAViTEmbeddings: _image_layout,
    DnATimesformerEmbeddings: _video_layout,
    DnAVideoLlama3VisionModel: _probe_layout,
}
