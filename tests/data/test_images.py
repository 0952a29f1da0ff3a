"""Reading, augmenting and processing images."""

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import default_data_collator

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.augmentation import TrainingAugmentation
from dna_hf.data.errors import DataError
from dna_hf.data.image_reading import read_image, read_image_file
from dna_hf.data.images import image_processor, torch_dataset
from dna_hf.data.sources import load_split
from tests.kit.paths import shared_path


def augmentation(**values):
    return TrainingAugmentation(ImageDataArguments(**values), (12, 10), Image.Resampling.BILINEAR)


def embedded(training, seed=0):
    arguments = ImageDataArguments(crop_scale=[0.5, 1.0], max_eval_samples=None)
    processor = image_processor(arguments, (28, 28))
    augment = TrainingAugmentation(arguments, (28, 28), processor.resample) if training else None
    images = load_split(arguments, "test")
    images.rows = images.rows.select(range(40))
    return torch_dataset(images, processor, augment, seed=seed)


def epoch(dataset, number, workers=0):
    dataset.set_epoch(number)
    loader = DataLoader(dataset, batch_size=8, collate_fn=default_data_collator, num_workers=workers)
    return torch.cat([batch["pixel_values"] for batch in loader])


def test_processed_pixels_are_scaled_and_normalised():
    dataset = embedded(training=False)
    picture = read_image(dataset.images.rows[3]["image"], "")
    expected = (np.asarray(picture) / 255 - 0.5) / 0.5
    sample = dataset[3]
    assert sample["labels"] == dataset.images.rows[3]["label"]
    assert torch.allclose(sample["pixel_values"], torch.from_numpy(expected).float().permute(2, 0, 1), atol=1e-6)


def test_augmentation_depends_on_seed_epoch_and_row_alone():
    first = epoch(embedded(training=True), 0)
    assert torch.equal(first, epoch(embedded(training=True), 0))
    assert torch.equal(first, epoch(embedded(training=True), 0, workers=2))
    assert not torch.equal(first, epoch(embedded(training=True), 1))
    assert not torch.equal(first, epoch(embedded(training=True, seed=1), 0))
    np.random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(first, epoch(embedded(training=True), 0))


def test_persistent_workers_see_the_epoch():
    dataset = embedded(training=True)
    loader = DataLoader(
        dataset, batch_size=20, collate_fn=default_data_collator, num_workers=1, persistent_workers=True
    )
    for number in range(2):
        dataset.set_epoch(number)
        seen = torch.cat([batch["pixel_values"] for batch in loader])
        assert torch.equal(seen, epoch(embedded(training=True), number))


def test_crops_have_the_wanted_area_and_ratio():
    augment = augmentation(crop_scale=[0.2, 0.6], crop_ratio=[0.5, 2.0])
    random = np.random.default_rng(0)
    boxes = np.array([augment.crop_box(200, 100, random) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 200 and boxes[:, 3].max() <= 100
    area, ratio = width * height / 20000, width / height
    assert 0.19 < area.min() < 0.22 and 0.58 < area.max() < 0.61
    assert 0.48 < ratio.min() < 0.55 and 1.85 < ratio.max() < 2.05
    # a crop may lie anywhere
    assert boxes[:, 0].min() == 0 and boxes[:, 2].max() == 200


def test_a_very_long_image_is_cropped_in_its_middle():
    box = augmentation(crop_scale=[0.9, 1.0]).crop_box(1000, 10, np.random.default_rng(0))
    assert box == (493, 0, 506, 10)


def test_full_scale_is_a_plain_resize_and_flips_come_at_their_rate():
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    plain = np.asarray(picture.resize((10, 12), Image.Resampling.BILINEAR))
    augment = augmentation(crop_scale=[1.0, 1.0], flip_probability=0.25)
    flipped = 0
    for seed in range(400):
        result = np.asarray(augment(picture, np.random.default_rng(seed)))
        same, mirrored = np.array_equal(result, plain), np.array_equal(result, plain[:, ::-1])
        assert same or mirrored
        flipped += mirrored
    assert 70 < flipped < 130


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    Image.new(mode, (5, 3)).save(path)
    assert (read_image_file(path).mode, read_image_file(path).size) == ("RGB", (5, 3))


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image_file(tmp_path / "turned.jpg").size == (4, 6)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(20), b"GIF89a"], ids=["empty", "text", "png", "gif"]
)
def test_an_unreadable_image_is_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read image .*bad\.png"):
        read_image_file(tmp_path / "bad.png")


def test_a_truncated_image_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "a.png"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read_image_file(tmp_path / name)


def test_an_unreadable_row_is_named():
    dataset = embedded(training=False)
    with pytest.raises(DataError, match="in row 5 of split 'test'"):
        dataset.samples([5], [{"bytes": b"nothing", "path": None}], [0])


def test_streamed_samples_equal_local_ones():
    folder = str(shared_path("data", "cifar10"))
    arguments = ImageDataArguments(dataset=folder)
    processor = image_processor(arguments, (32, 32))
    local = torch_dataset(load_split(arguments, "test"), processor)
    streamed = torch_dataset(load_split(ImageDataArguments(dataset=folder, streaming=True), "test"), processor)
    for index, sample in zip(range(5), streamed, strict=False):
        assert sample["labels"] == local[index]["labels"]
        assert torch.equal(sample["pixel_values"], local[index]["pixel_values"])


def test_a_streamed_training_epoch_is_shuffled_anew(tmp_path, monkeypatch):
    # after each stream, for threads of pyarrow
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1)
    (file,) = shared_path("data", "cifar10").glob("test*.parquet")
    # a stream is shuffled by the rows of a group at a time
    pq.write_table(pq.read_table(file).slice(0, 40), tmp_path / "test.parquet", row_group_size=10)
    arguments = ImageDataArguments(dataset=str(tmp_path), streaming=True, shuffle_buffer=20)
    processor = image_processor(arguments, (32, 32))
    augment = TrainingAugmentation(arguments, (32, 32), processor.resample)

    def labels(number):
        dataset = torch_dataset(load_split(arguments, "test"), processor, augment, arguments=arguments, seed=3)
        dataset.set_epoch(number)
        return [sample["labels"] for sample in dataset]

    assert labels(0) == labels(0)
    assert labels(0) != labels(1)
