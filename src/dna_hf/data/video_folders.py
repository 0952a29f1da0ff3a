"""Folders of labelled videos: `[wrapper/][split/]class/.../video`, where a folder of images is a video, too."""

# paths are text here: there may be millions
# ruff: noqa: PTH112, PTH118, PTH119, PTH122, PTH208

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .clips import Clip
from .errors import DataError
from .files import Folder, LeftOut, gather, is_clutter, is_image, is_video
from .split_folders import (
    Node,
    refuse_splits_in_classes,
    refuse_unknown_splits,
    split_folders,
    unwrapped,
    without_wrappers,
)
from .splits import is_alias
from .video_columns import NoLabels


TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json")


@dataclass
class VideoFolder:
    """A folder as a data set of videos sees it.

    Args:
        node: the videos and folders of frames in it, by folder.
        frames: folder of frames -> its images, in order.
    """

    node: Node
    frames: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class ClassFolders:
    """The class folders of one split.

    Args:
        rows: class and path of each video, or folder of frames, in order.
        left_out: what is in the split and no video.
    """

    rows: list[tuple[str, str]]
    left_out: list[LeftOut]


def see_videos(folder: Folder) -> VideoFolder:
    """Find the videos and folders of frames in a folder."""
    frames: dict[str, tuple[str, ...]] = {}
    return VideoFolder(_node(folder, frames), frames)


def _node(folder: Folder, frames: dict[str, tuple[str, ...]]) -> Node:
    node = Node(folder.name, left_out=list(folder.left_out))
    images = []
    for path in folder.files:
        if is_video(path):
            node.samples.append(path)
        elif path.lower().endswith(TABLE_SUFFIXES):
            node.tables.append(path)
        elif is_image(path):
            images.append(path)
        else:
            suffix = os.path.splitext(path)[1].lower()
            node.left_out.append(LeftOut(path, f"{suffix} is no video" if suffix else "no video by its name"))
    for inner in folder.folders:
        one = _node(inner, frames)
        if inner.path in frames:
            node.samples.append(inner.path)
            # what lies beside the frames of a video describes it
            node.left_out += [*one.left_out, *(LeftOut(path, "beside the frames of a video") for path in one.tables)]
        else:
            node.take_in(inner.path, one)
    if images and not node.samples and not node.nodes:
        frames[folder.path] = tuple(sorted(images, key=_natural))
    else:
        node.left_out += [LeftOut(path, "image beside videos") for path in images]
    return node


def frames_in(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Paths of the images of a folder, img_2 before img_10; none of a folder with videos."""
    names = [name for name in names if not is_clutter(name)]
    if any(map(is_video, names)):
        return ()
    return tuple(os.path.join(folder, name) for name in sorted(filter(is_image, names), key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def split_nodes(videos: VideoFolder, asked: set[str], notes: list[str], outside: list[LeftOut]) -> dict[str, Node]:
    """The folder of each split, by its name: that of the folder where it is a usual one; `train` if there are none.

    Args:
        videos: the folder of the data set.
        asked: splits that the user named.
        notes: gets sentences about what is decided.
        outside: gets what is in no split.

    Raises:
        DataError: if it is not clear which videos belong to which split.
    """
    root = unwrapped(videos.node, notes)
    folders = split_folders(root, asked, notes)
    if folders is None:
        refuse_splits_in_classes(root)
        refuse_unknown_splits(root)
        return without_wrappers({"train": root}, notes)
    outside += [*(LeftOut(path, "in no split folder") for path in root.samples), *root.left_out]
    # records of videos have the names of the folders
    own = {node.name if is_alias(node.name) else name: node for name, node in folders.items()}
    return without_wrappers(own, notes)


def class_folders(node: Node, path: str, videos: VideoFolder) -> ClassFolders:
    """The videos of a split by their class folders.

    Args:
        node: the folder of the split.
        path: path of the data set, for messages.
        videos: the folder of the data set, which knows the frames.

    Raises:
        NoLabels: if there are no class folders, but videos.
        DataError: if there are no class folders with videos, or a class folder holds the frames of one video.
    """
    bare = next((one for one in node.samples if one in videos.frames), None)
    if bare is not None:
        raise DataError(f"class folder {bare!r} holds images: put the frames of each clip in a folder of its own.")
    rows = [(one.name, sample) for one in node.nodes for sample in sorted(one.all_samples())]
    if not rows:
        what = "no class folders, but videos" if node.samples else "no videos"
        raise (NoLabels if node.samples else DataError)(
            f"folder {path!r} has {what}: put the videos of each class in a folder of its own, name their labels in a "
            "table, or set protocol."
        )
    loose = [LeftOut(sample, "in no class folder") for sample in node.samples]
    return ClassFolders(rows, [*loose, *node.all_left_out()])


def video_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all videos and folders of frames inside folders, sorted; a folder of frames is a video.

    Raises:
        DataError: if a path does not exist or is no regular file, or a folder holds no video.
    """
    return gather(paths, _choose, "video")


def _choose(folder: Folder) -> tuple[list[str], list[LeftOut]]:
    videos = see_videos(folder)
    found = [folder.path] if folder.path in videos.frames else list(videos.node.all_samples())
    tables = [LeftOut(path, "no video by its name") for path in videos.node.all_tables()]
    return found, [*tables, *videos.node.all_left_out()]


def clip_of(path: str | Path) -> Clip:
    """The clip of a video file, or of a folder of frames, without a class."""
    name = str(path)
    return Clip(name, 0, frames=(frames_in(name, os.listdir(name)) or None) if os.path.isdir(name) else None)
