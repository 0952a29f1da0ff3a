"""The motion task: images that move on a circle, and the class is the motion.

An image of the embedded part of Fashion-MNIST jumps, black around it, from one to another of 11 positions on a
circle. A class is a number of positions per frame; 11 is a prime number, so that a clip shows every position once,
whatever its class. All classes thus have the same frames, in different orders, and every image comes in every class:
what a model makes of the frames without their order, it makes of all 8 clips of an image, and it is right about one
of them. A horizontal flip turns a class into another one.

Half of the clips begin at the top, where one frame and its time give the class away; the others begin anywhere, and
only how the frames follow each other tells their class. Without the former, models whose time embeddings begin at zero
take very long to find out that time matters; with them alone, they would not have to compare frames.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..models.video_decoding import BASE_FRAME_RATE, FrameSampling
from .arguments import EMBEDDED_VIDEOS
from .clips import Clip, Decoder, LabelledVideos
from .embedded import fashion_mnist_mini


# the data set's name
# positions that a clip moves on by in every frame, clockwise; there are as many frames as positions
STEPS = (1, 2, 3, 4, -1, -2, -3, -4)
CLASS_NAMES = tuple(f"{'clockwise' if step > 0 else 'counterclockwise'} {abs(step)}" for step in STEPS)
NUM_POSITIONS = 11
# all in pixels; at every position the image lies in the frame
FRAME_SIZE = 32
IMAGE_SIZE = 14
RADIUS = 9
# of the clips; the others begin at a random position
BEGIN_AT_TOP = 0.5
# split -> how many of its images move
IMAGES = {"train": 2000, "test": 100}
SEED = 0


@dataclass(frozen=True, kw_only=True)
class MotionClip(Clip):
    """A clip of the motion task, which is drawn when it is needed.

    Args:
        split: split of the embedded images, `"train"` or `"test"`.
        image: number of the image in that split.
        position: position of the image in the first frame, counted clockwise from the top.
        step: number of positions that the image moves on by in every frame, clockwise if positive.
    """

    split: str
    image: int
    position: int
    step: int

    def frames_for(self, sampling: FrameSampling, decoder: Decoder) -> np.ndarray:
        """The frames that are sampled; nothing is decoded."""
        frames = self.render()
        return frames[sampling(len(frames), BASE_FRAME_RATE)]

    def render(self) -> np.ndarray:
        """Draw the clip.

        Returns:
            Frames (11, 32, 32, 3), uint8, the channels alike.
        """
        image = small_images(self.split)[self.image]
        frames = np.zeros((NUM_POSITIONS, FRAME_SIZE, FRAME_SIZE), dtype=np.uint8)
        for time, frame in enumerate(frames):
            row, column = corner(self.position + self.step * time)
            frame[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE] = image
        return np.repeat(frames[..., None], 3, axis=-1)


def motion_splits() -> dict[str, LabelledVideos]:
    """The splits `train` and `test`, the same ones in every call; no image is in both.

    Every image is in every class once.
    """
    random = np.random.default_rng(SEED)
    splits = {}
    for split, count in IMAGES.items():
        images = np.sort(random.permutation(len(small_images(split)))[:count]).tolist()
        motions = [(image, label, step) for image in images for label, step in enumerate(STEPS)]
        positions = random.integers(NUM_POSITIONS, size=len(motions))
        positions[random.random(len(motions)) < BEGIN_AT_TOP] = 0
        clips: list[Clip] = [
            MotionClip(
                f"{EMBEDDED_VIDEOS}/{split}/{number}", label, split=split, image=image, position=position, step=step
            )
            for number, ((image, label, step), position) in enumerate(zip(motions, positions.tolist(), strict=True))
        ]
        splits[split] = LabelledVideos(clips, list(CLASS_NAMES), split)
    return splits


def corner(position: int) -> tuple[int, int]:
    """Row and column of the upper left pixel of the image at a position of the circle."""
    angle = 2 * np.pi * (position % NUM_POSITIONS) / NUM_POSITIONS
    centre = (FRAME_SIZE - IMAGE_SIZE) / 2
    return round(centre - RADIUS * np.cos(angle)), round(centre + RADIUS * np.sin(angle))


@cache
def small_images(split: str) -> np.ndarray:
    """The embedded images of a split, of half their size: (images, 14, 14), uint8."""
    images, _ = fashion_mnist_mini(split)
    parts = images.reshape(len(images), IMAGE_SIZE, 2, IMAGE_SIZE, 2)
    return parts.mean(axis=(2, 4)).round().astype(np.uint8)
