"""Measure what a conversion keeps: hidden states on photographs, and a linear probe before and after.

usage: measure_conversion.py CHECKPOINT --images FILE.parquet --probe FOLDER [--image-size N] [--train N] [--test N]

Prints a Markdown table: for negative_init zero and warm, the largest and the relative difference of the last hidden
states from the source's, and the top-1 accuracy of a logistic regression on the class token, for the source, too.
"""

import argparse

import torch
from transformers import AutoImageProcessor, AutoModel

from dna_hf.conversion import from_pretrained_softmax
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.images import torch_dataset
from dna_hf.data.sources import load_split, load_train_and_eval


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="transformers' ViT, DeiT or DINOv2 without a head")
    parser.add_argument("--images", help="data set of photographs, to compare hidden states on")
    parser.add_argument("--probe", help="labelled data set with splits train and test, for the linear probe")
    parser.add_argument("--image-size", type=int, default=84, help="of the probe, in pixels (default: %(default)s)")
    parser.add_argument("--train", type=int, default=5000, help="training images (default: %(default)s)")
    parser.add_argument("--test", type=int, default=2000, help="test images (default: %(default)s)")
    arguments = parser.parse_args()
    processor = AutoImageProcessor.from_pretrained(arguments.checkpoint)
    models = {"source": AutoModel.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()}
    for init in ("zero", "warm"):
        models[init] = from_pretrained_softmax(models["source"], negative_init=init).model
    if arguments.images:
        data = load_split(ImageDataArguments(dataset=arguments.images), "train")
        compare_hidden_states(models, torch_dataset(data, processor))
    if arguments.probe:
        size = {"height": arguments.image_size, "width": arguments.image_size}
        small = AutoImageProcessor.from_pretrained(arguments.checkpoint, size=size, do_center_crop=False)
        data = ImageDataArguments(
            dataset=arguments.probe, max_train_samples=arguments.train, max_eval_samples=arguments.test
        )
        splits = [torch_dataset(split, small) for split in load_train_and_eval(data, seed=0)]
        print("\n| model | linear probe, top-1 |\n|---|---:|")
        for name, model in models.items():
            accuracy = linear_probe(*(features(model, split) for split in splits))
            print(f"| {name} | {100 * accuracy:.2f} % |", flush=True)


def batches(dataset, size=50):
    """Pixel values and labels, a batch at a time."""
    for start in range(0, len(dataset), size):
        samples = dataset.__getitems__(list(range(start, min(start + size, len(dataset)))))
        yield torch.stack([s["pixel_values"] for s in samples]), torch.tensor([s["labels"] for s in samples])


@torch.no_grad()
def compare_hidden_states(models, dataset) -> None:
    """Print how far the hidden states are from the source's."""
    largest, squares, norm = {"zero": 0.0, "warm": 0.0}, {"zero": 0.0, "warm": 0.0}, 0.0
    for pixel_values, _ in batches(dataset):
        expected = models["source"](pixel_values).last_hidden_state
        norm += expected.square().sum().item()
        for init in largest:
            difference = models[init](pixel_values).last_hidden_state - expected
            largest[init] = max(largest[init], difference.abs().max().item())
            squares[init] += difference.square().sum().item()
    print(f"{len(dataset)} photographs of {tuple(pixel_values.shape[-2:])} pixels\n")
    print("| negative_init | largest difference | relative difference |\n|---|---:|---:|")
    for init in largest:
        print(f"| {init} | {largest[init]:.1e} | {(squares[init] / norm) ** 0.5:.1e} |")


@torch.no_grad()
def features(model, dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Class tokens (images, width) and labels (images)."""
    tokens, labels = [], []
    for pixel_values, batch_labels in batches(dataset):
        tokens.append(model(pixel_values).last_hidden_state[:, 0])
        labels.append(batch_labels)
    return torch.cat(tokens), torch.cat(labels)


def linear_probe(train, test, penalty: float = 1e-3) -> float:
    """Top-1 accuracy on `test` of a logistic regression fitted to `train`."""
    mean, std = train[0].mean(0), train[0].std(0)
    x, y = ((train[0] - mean) / std).double(), train[1]
    weight = torch.zeros(x.shape[1], int(y.max()) + 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(weight.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight + bias, y) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    predicted = (((test[0] - mean) / std).double() @ weight + bias).argmax(1)
    return (predicted == test[1]).double().mean().item()


if __name__ == "__main__":
    main()
