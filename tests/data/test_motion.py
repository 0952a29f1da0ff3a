"""The motion task: the same clips in every process, and nothing but the order of its frames tells a class."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from dna_hf.data.motion import CLASS_NAMES, IMAGE_SIZE, NUM_POSITIONS, STEPS, corner, motion_splits, small_images


@pytest.fixture(scope="module")
def splits():
    return motion_splits()


def pictures(clip):
    """The frames of a clip, in an order of their own."""
    return sorted(frame.tobytes() for frame in clip.render())


def test_every_image_is_in_every_class_once(splits):
    for name, images in {"train": 2000, "test": 100}.items():
        videos = splits[name]
        assert videos.class_names == list(CLASS_NAMES)
        assert Counter(clip.label for clip in videos.clips) == dict.fromkeys(range(8), images)
        assert len({(clip.image, clip.label) for clip in videos.clips}) == 8 * images
        assert len({clip.path for clip in videos.clips}) == 8 * images


def test_classes_begin_alike(splits):
    starts = np.array([[clip.label, clip.position] for clip in splits["train"].clips])
    for label in range(len(STEPS)):
        positions = starts[starts[:, 0] == label, 1]
        # 2,000 clips: 1,000 at the top and 1/11 of the others, within 4 standard deviations
        assert abs((positions == 0).mean() - (0.5 + 0.5 / NUM_POSITIONS)) < 4 * 0.0112
        assert set(positions.tolist()) == set(range(NUM_POSITIONS))


def test_the_eight_clips_of_an_image_have_the_same_frames_in_different_orders(splits):
    clips = splits["test"].clips
    for begin in (0, 40, 792):
        group = clips[begin : begin + 8]
        assert len({clip.image for clip in group}) == 1
        assert len({clip.label for clip in group}) == 8
        assert all(pictures(clip) == pictures(group[0]) for clip in group)
        assert len({clip.render().tobytes() for clip in group}) == 8


def test_the_class_is_the_step_from_frame_to_frame(splits):
    places = [corner(position) for position in range(NUM_POSITIONS)]
    assert len(set(places)) == NUM_POSITIONS
    for clip in splits["test"].clips[:11]:
        for time, frame in enumerate(clip.render()[..., 0]):
            row, column = places[(clip.position + time * STEPS[clip.label]) % NUM_POSITIONS]
            expected = np.zeros_like(frame)
            expected[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE] = small_images("test")[clip.image]
            assert np.array_equal(frame, expected)


def test_no_training_image_is_in_the_test(splits):
    train, test = (
        {small_images(name)[clip.image].tobytes() for clip in splits[name].clips} for name in ("train", "test")
    )
    assert len(train) > 1990
    assert not train & test


def test_a_fresh_process_draws_the_same_clips(splits):
    code = (
        "import hashlib; from dna_hf.data.motion import motion_splits\n"
        "drawn = b''.join(clip.render().tobytes() for clip in motion_splits()['test'].clips[:20])\n"
        "print(hashlib.sha256(drawn).hexdigest())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    drawn = b"".join(clip.render().tobytes() for clip in splits["test"].clips[:20])
    assert output.strip() == hashlib.sha256(drawn).hexdigest()
