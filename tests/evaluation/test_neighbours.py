"""`dna-hf evaluate --knn`: the features of a body, by the votes of neighbours, against plain NumPy."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dna_hf import DnATimesformerVideoProcessor
from dna_hf.data.arguments import ImageDataArguments, VideoDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.images import torch_dataset
from dna_hf.data.sources import load_split, load_train_and_eval
from dna_hf.data.video_sources import load_split as load_videos
from dna_hf.data.videos import VideoDataset
from dna_hf.evaluation import neighbours
from dna_hf.evaluation.neighbours import evaluate_by_neighbours, neighbour_votes, vote_figures
from dna_hf.kinds import load
from tests.kit.classifier import save_classifier
from tests.kit.command_line import run_cli
from tests.kit.models import action_model
from tests.kit.videos import numbered, write_video


NAMES = [str(number) for number in range(10)]
DATA = {"max_train_samples": 60, "max_eval_samples": 30}


def plain_votes(references, classes, features, num_classes, k, temperature=0.07):
    """The protocol, one sample after the other."""
    references = references / np.linalg.norm(references, axis=1, keepdims=True)
    votes = np.zeros((len(features), num_classes))
    for row, feature in enumerate(features):
        cosines = references @ (feature / np.linalg.norm(feature))
        for nearest in np.argsort(-cosines)[:k]:
            votes[row, classes[nearest]] += np.exp(cosines[nearest] / temperature)
    return votes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("knn") / "whole", NAMES)


def features_of(checkpoint, split, count):
    """Class tokens after the last norm, one image after the other."""
    loaded = load(checkpoint, device="cpu", needs_head=False)
    arguments = ImageDataArguments(max_eval_samples=count)
    dataset = torch_dataset(load_split(arguments, split), loaded.processor)
    samples = [dataset[row] for row in range(count)]
    with torch.no_grad():
        tokens = [
            loaded.model.base_model(each["pixel_values"][None]).last_hidden_state[0, 0].double() for each in samples
        ]
    return torch.stack(tokens).numpy(), np.array([each["labels"] for each in samples])


def test_the_votes_are_those_of_the_protocol(checkpoint, tmp_path, monkeypatch):
    references, classes = features_of(checkpoint, "train", 60)
    features, labels = features_of(checkpoint, "test", 30)
    names = load_split(ImageDataArguments(), "test").class_names
    expected = plain_votes(references, classes, features, 10, k=5)
    ranking = np.argsort(-expected, axis=1)
    hits = ranking == labels[:, None]
    has_votes = np.take_along_axis(expected, ranking, axis=1) > 0
    for block in (neighbours.BLOCK, 7 * 60):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found = evaluate_by_neighbours(str(checkpoint), ImageDataArguments(**DATA), "test", k=5, device="cpu")
        assert found.figures.top1 == hits[:, 0].mean()
        assert found.figures.top5 == (hits & has_votes)[:, :5].any(axis=1).mean()
        assert 0 < found.figures.top1 < found.figures.top5 < 1 and found.figures.samples == 30
        rows = dict(found.rows())
        assert "loss" not in rows and rows["top-1"] == f"{100 * found.figures.top1:.2f} %"
        for each in found.per_class:
            assert each.accuracy == hits[labels == names.index(each.name), 0].mean()
    # the body alone has the same features
    loaded = load(checkpoint, device="cpu")
    loaded.model.dna_vit.save_pretrained(tmp_path / "body")
    loaded.processor.save_pretrained(tmp_path / "body")
    body = evaluate_by_neighbours(str(tmp_path / "body"), ImageDataArguments(**DATA), "test", k=5, device="cpu")
    assert body.report() == found.report()


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_votes_in_blocks(rows, monkeypatch):
    random = np.random.default_rng(0)
    references, features = random.normal(size=(40, 8)), random.normal(size=(10, 8))
    classes = random.integers(0, 4, 40)
    monkeypatch.setattr(neighbours, "BLOCK", 40 * rows)
    unit = (functional.normalize(torch.from_numpy(each).float(), dim=1) for each in (references, features))
    found = neighbour_votes(next(unit), classes, next(unit), 4, k=6)
    np.testing.assert_allclose(found, plain_votes(references, classes, features, 4, 6), rtol=1e-4)


def test_a_class_without_votes_is_not_among_the_five():
    votes = np.array([[0.0, 2.0, 0.0], [1.0, 1.0, 0.0]], dtype=np.float32)
    figures = vote_figures(votes, np.array([0, 0]), 0)
    assert (figures.top1, figures.top5, figures.mean_class_accuracy) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("pooling", ["cls", "cls_mean"])
def test_what_is_compared_is_what_the_classifier_reads(pooling, tmp_path):
    folder = save_classifier(tmp_path / "model", NAMES, classifier_pooling=pooling)
    read = []
    loaded = load(folder, device="cpu")
    loaded.model.classifier.register_forward_hook(lambda module, given, made: read.append(given[0]))
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loaded.model(pixels)
        assert torch.equal(neighbours._pooled(loaded, pixels), read[0])


def test_the_views_of_a_video_are_averaged(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name, level in (("dark", 20), ("light", 200)):
            for number in range(count):
                path = tmp_path / "clips" / split / name / f"{number}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, [numbered(level + 3 * number + frame) for frame in range(8)])
    model = action_model()
    model.save_pretrained(tmp_path / "model")
    processor = DnATimesformerVideoProcessor(
        num_frames=3, size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor.save_pretrained(tmp_path / "model")
    arguments = VideoDataArguments(dataset=str(tmp_path / "clips"), num_clips=2)
    found = evaluate_by_neighbours(str(tmp_path / "model"), arguments, "test", k=3, device="cpu")

    def features(split):
        videos = load_videos(arguments, split)
        views = neighbours.view_processor(processor, arguments)
        samples = list(map(VideoDataset(videos, views, arguments).__getitem__, range(len(videos))))
        with torch.no_grad():
            tokens = [model.dna_timesformer(each["pixel_values"]).last_hidden_state[:, 0].mean(0) for each in samples]
        return torch.stack(tokens).double().numpy(), np.array([each["labels"] for each in samples])

    (references, classes), (tokens, labels) = features("train"), features("test")
    votes = plain_votes(references, classes, tokens, 2, 3)
    assert found.figures.top1 == (votes.argmax(axis=1) == labels).mean() and found.figures.samples == 4


def test_on_the_command_line(checkpoint, tmp_path):
    words = ["evaluate", checkpoint, "--max_train_samples", 60, "--max_eval_samples", 30, "--device", "cpu"]
    done = run_cli(*words, "--knn", "--output", tmp_path / "knn.json", "--confusion", tmp_path / "confusion.csv")
    assert done.returncode == 0, done.stderr
    assert "fashion-mnist-mini, test, 20 nearest neighbours in train" in done.stdout
    report = json.loads((tmp_path / "knn.json").read_text())
    expected = evaluate_by_neighbours(str(checkpoint), ImageDataArguments(**DATA), "test", device="cpu")
    assert report["knn"] == 20 and report["metrics"] == expected.figures.by_name(expected.kind)
    assert len((tmp_path / "confusion.csv").read_text().splitlines()) == 11
    refused = {
        ("--knn", "--record"): "--record is for figures of a classifier",
        ("--knn", "--slices", "label"): "--slices is for figures of a classifier",
        ("--knn", "--split", "train"): "train_split and eval_split are both 'train'",
        ("--knn", "61"): "--knn 61 is more than the 60 images of split 'train'",
        ("--knn", "0"): "must be",
        ("--knn", "--streaming", "true"): "leave out --streaming",
        ("--knn", "--view_average", "logit_sum"): "--view_average has no effect on dna-hf evaluate --knn",
        ("--knn", "--max_bad_fraction", "0.5"): "set on_error to skip, or leave it out",
        ("--knn", "--seed", "1"): "a seed says which part was held out",
        (): "--max_train_samples has no effect on dna-hf evaluate: it is for training and dna-hf evaluate --knn",
    }
    for more, sentence in refused.items():
        done = run_cli(*words, *more)
        assert done.returncode == 2 and sentence in done.stderr, done.stderr


def test_what_training_held_out_has_neighbours_in_the_rest(checkpoint, tmp_path):
    images = load_split(ImageDataArguments(max_eval_samples=120), "train")
    rows = images.rows.cast_column("image", datasets.Image())
    rows.to_parquet(str(tmp_path / "train.parquet"))
    arguments = ImageDataArguments(dataset=str(tmp_path), validation_fraction=0.25)
    found = evaluate_by_neighbours(str(checkpoint), arguments, "held-out", k=5, seed=3, device="cpu")
    loaded = load(checkpoint, device="cpu")

    def features(split):
        batch = torch_dataset(split, loaded.processor).__getitems__(list(range(len(split))))
        with torch.no_grad():
            tokens = loaded.model.dna_vit(torch.stack([each["pixel_values"] for each in batch])).last_hidden_state
        return tokens[:, 0].double().numpy(), np.array([each["labels"] for each in batch])

    (references, classes), (tokens, labels) = map(features, load_train_and_eval(arguments, 3))
    assert (len(labels), len(classes)) == (30, 90) and found.figures.samples == 30
    votes = plain_votes(references, classes, tokens, 10, 5)
    assert found.figures.top1 == (votes.argmax(axis=1) == labels).mean()
    with pytest.raises(DataError, match=r"has no record of its training.*give the seed"):
        evaluate_by_neighbours(str(checkpoint), arguments, "held-out", k=5, device="cpu")
    with pytest.raises(DataError, match="is held out, for it has split 'test'"):
        evaluate_by_neighbours(str(checkpoint), ImageDataArguments(), "held-out", k=5, seed=3, device="cpu")


def test_data_of_several_labels_is_refused(checkpoint, tmp_path):
    rows = {
        "image": [Image.new("RGB", (28, 28), (10 * number,) * 3) for number in range(6)],
        "label": [[0, 1], [1], [0], [1], [0, 1], [0]],
    }
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / f"{split}.parquet"))
    arguments = ImageDataArguments(dataset=str(tmp_path), class_names=["a", "b"])
    with pytest.raises(DataError, match="one class per sample"):
        evaluate_by_neighbours(str(checkpoint), arguments, "test", k=2, device="cpu")
