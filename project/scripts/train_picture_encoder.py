"""Train a small picture encoder to recognise the demo's drawn objects, in less than a minute.

It sees fresh drawings, none of the posts' pictures and no type of an entity: it learns what a cat
looks like, not that a name in a post with a cat is MISC. The corpus is then used with the frozen
encoder, as a real one is used with an encoder trained on ImageNet.
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from demo_pictures import DRAW, Box, draw_picture
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms._presets import ImageClassification

KINDS: tuple[str, ...] = tuple(DRAW)
OBJECTS_PER_PICTURE = 4


@dataclass(frozen=True)
class Crops:
    """Crops of drawn objects.

    pixels (Tensor): Pre-processed crops, float32, n x 3 x size x size.
    kinds (Tensor): What they show, as indices into `KINDS`, int64, n.
    """

    pixels: Tensor
    kinds: Tensor


class Accuracy(NamedTuple):
    """How often a classifier is right.

    close (float): On crops of an object alone, as in the corpus, 0-1.
    around (float): On crops with some of what is around an object, 0-1.
    """

    close: float
    around: float


def main() -> None:
    """Read the command line, train, report and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("project/data/demo/encoder.pth"))
    parser.add_argument("--arch", default="resnet18", help="a torchvision classifier")
    parser.add_argument("--image-size", type=int, default=32, help="pixels a side that the encoder sees")
    parser.add_argument("--pictures", type=int, default=500, help="drawings to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learn-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Pictures of 32 pixels are so little work that threads mostly wait for each other (on a machine with
    # anything else to do, several times as long), and the result would depend on their number.
    torch.set_num_threads(1)
    start = time.perf_counter()
    model, accuracy = train_encoder(
        args.arch,
        args.image_size,
        n_pictures=args.pictures,
        epochs=args.epochs,
        learn_rate=args.learn_rate,
        seed=args.seed,
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.output)
    seconds = time.perf_counter() - start
    print(
        f"{args.arch} at {args.image_size} px, {seconds:.0f} s: "
        f"accuracy on held-out drawings {accuracy.close:.3f}, "
        f"with what is around them {accuracy.around:.3f}"
    )
    print(f"saved to {args.output}")


def train_encoder(
    arch: str, image_size: int, *, n_pictures: int, epochs: int, learn_rate: float, seed: int
) -> tuple[nn.Module, Accuracy]:
    """Train an encoder on drawings of its own.

    arch (str): A classifier that `torchvision.models.get_model` knows.
    image_size (int): Pixels a side that the encoder sees.
    n_pictures (int): Drawings to train on, with four objects each; a fifth more to validate on.
    epochs (int): How often every crop is seen.
    learn_rate (float): The highest learning rate; it rises to it and falls to nothing.
    seed (int): Decides drawings, weights and order.
    RETURNS (Tuple[nn.Module, Accuracy]): The classifier in evaluation mode, and how good it is on
        drawings it hasn't seen.
    """
    set_seed(seed)
    train = draw_crops(n_pictures, image_size, random.Random(f"{seed}/encoder/train"))
    held_out = draw_crops(n_pictures // 5, image_size, random.Random(f"{seed}/encoder/dev"))
    # Drawing used generators of its own; the weights don't depend on how many drawings there are.
    torch.manual_seed(seed)
    model: nn.Module = get_model(arch, weights=None, num_classes=len(KINDS))
    fit(model, train, epochs, learn_rate)
    return model.eval(), measure(model, held_out)


def set_seed(seed: int) -> None:
    """Make everything that follows repeatable on the same machine.

    seed (int): Any number.
    """
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that was never written; filling it takes a sixth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def draw_crops(n_pictures: int, image_size: int, rng: random.Random) -> Crops:
    """Draw pictures and cut their objects out: closely, and with some of what is around them.

    n_pictures (int): How many pictures.
    image_size (int): Pixels a side of a pre-processed crop.
    rng (random.Random): Decides drawings and crops.
    RETURNS (Crops): Two crops of every object: the even rows are close ones.
    """
    preprocess = ImageClassification(crop_size=image_size, resize_size=image_size)
    pixels, kinds = [], []
    for _ in range(n_pictures):
        picture = draw_picture(rng.sample(KINDS, OBJECTS_PER_PICTURE), rng)
        for thing in picture.objects:
            for box in (near_box(thing.box, rng), around_box(thing.box, picture.image, rng)):
                pixels.append(preprocess(picture.image.crop(box)))
                kinds.append(KINDS.index(thing.kind))
    return Crops(torch.stack(pixels), torch.tensor(kinds))


def near_box(box: Box, rng: random.Random) -> Box:
    """RETURNS (Box): The box with each edge moved a little, as a detector might give it."""
    left, upper, right, lower = box
    w, h = right - left, lower - upper
    return (
        left + round(w * rng.uniform(-0.1, 0.06)),
        upper + round(h * rng.uniform(-0.1, 0.06)),
        right + round(w * rng.uniform(-0.06, 0.1)),
        lower + round(h * rng.uniform(-0.06, 0.1)),
    )


def around_box(box: Box, image: Image.Image, rng: random.Random) -> Box:
    """RETURNS (Box): The box with what is around it, up to twice its size, inside the picture.

    The object looks smaller in it, as objects do in the whole picture.
    """
    left, upper, right, lower = box
    reach = max(right - left, lower - upper) * rng.uniform(0.1, 0.6)
    return (
        max(0, round(left - reach * rng.random())),
        max(0, round(upper - reach * rng.random())),
        min(image.width, round(right + reach * rng.random())),
        min(image.height, round(lower + reach * rng.random())),
    )


def fit(model: nn.Module, crops: Crops, epochs: int, learn_rate: float, batch_size: int = 64) -> None:
    """Train a classifier in place.

    model (nn.Module): Takes n x 3 x size x size, gives n x kinds.
    crops (Crops): What to learn.
    epochs (int): How often every crop is seen.
    learn_rate (float): The highest learning rate.
    batch_size (int): Crops per step.
    """
    n = len(crops.pixels)
    steps = epochs * (n // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learn_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learn_rate, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(epochs):
        for rows in shuffled_batches(n, batch_size):
            pixels = crops.pixels[rows]
            if torch.rand(()) < 0.5:
                pixels = pixels.flip(-1)
            loss = loss_of(model(pixels), crops.kinds[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def shuffled_batches(n: int, size: int) -> Iterator[Tensor]:
    """YIELDS (Tensor): Indices below `n` in random order, `size` at a time, without the rest."""
    order = torch.randperm(n)
    for start in range(0, n - size + 1, size):
        yield order[start : start + size]


def measure(model: nn.Module, crops: Crops, batch_size: int = 128) -> Accuracy:
    """Measure a classifier in evaluation mode.

    model (nn.Module): The classifier.
    crops (Crops): Crops that it hasn't seen.
    batch_size (int): Crops at a time.
    RETURNS (Accuracy): Shares of crops whose kind it tells.
    """
    model.eval()
    with torch.inference_mode():
        guesses = torch.cat([model(part).argmax(1) for part in crops.pixels.split(batch_size)])
    right = (guesses == crops.kinds).float()
    return Accuracy(float(right[0::2].mean()), float(right[1::2].mean()))


if __name__ == "__main__":
    main()
