"""Train a small picture encoder to recognise the demo's drawn objects, in a minute or two.

It sees fresh drawings, none of the posts' pictures and no type of an entity: it learns what a cat
looks like, not that a name in a post with a cat is MISC. The corpus is then used with the frozen
encoder, as a real one is used with an encoder trained on ImageNet.
"""

import random
import time
from pathlib import Path

import torch
import typer
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms._presets import ImageClassification

from project.demo.drawing import SHAPES, Box, draw_picture

KINDS = tuple(SHAPES)
OBJECTS_PER_PICTURE = 4


def main(output: Path = Path("project/data/demo/encoder.pth"), seed: int = 0) -> None:
    """Train a picture encoder on drawings of its own."""
    # Pictures of 32 pixels are so little work that threads mostly wait for each other (on a machine with
    # anything else to do, several times as long), and the result would depend on their number.
    torch.set_num_threads(1)
    start = time.perf_counter()
    model, close, around = train_encoder("resnet18", 32, n_pictures=500, epochs=5, learn_rate=2e-3, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), output)
    print(
        f"{time.perf_counter() - start:.0f} s, accuracy on held-out drawings {close:.3f}, with what "
        f"is around them {around:.3f}; saved to {output}"
    )


def train_encoder(
    arch: str, image_size: int, *, n_pictures: int, epochs: int, learn_rate: float, seed: int
) -> tuple[nn.Module, float, float]:
    """Train an encoder on drawings of its own, repeatably on the same machine.

    n_pictures (int): Drawings to train on, with four objects each; a fifth more to validate on.
    learn_rate (float): The highest one; it rises to it and falls to nothing.
    RETURNS (Tuple[nn.Module, float, float]): The classifier in evaluation mode, and its accuracy on crops of
        unseen objects alone, as in the corpus, and on crops with some of what is around them.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that was never written; filling it takes a sixth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    train = draw_crops(n_pictures, image_size, random.Random(f"{seed}/encoder/train"))
    pixels, kinds = draw_crops(n_pictures // 5, image_size, random.Random(f"{seed}/encoder/dev"))
    torch.manual_seed(seed)
    model: nn.Module = get_model(arch, weights=None, num_classes=len(KINDS))
    _fit(model, *train, epochs, learn_rate)
    with torch.inference_mode():
        guesses = torch.cat([model.eval()(part).argmax(1) for part in pixels.split(128)])
    right = (guesses == kinds).float()
    return model, float(right[0::2].mean()), float(right[1::2].mean())


def draw_crops(n_pictures: int, image_size: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """RETURNS (Tuple[Tensor, Tensor]): Two pre-processed crops of every object of fresh pictures, a close one
    and one with what is around; and what they show, as places in `KINDS`.
    """
    preprocess = ImageClassification(crop_size=image_size, resize_size=image_size)
    pixels, kinds = [], []
    for _ in range(n_pictures):
        picture = draw_picture(rng.sample(KINDS, OBJECTS_PER_PICTURE), rng)
        for thing in picture.objects:
            for box in (near_box(thing.box, rng), around_box(thing.box, picture.image, rng)):
                pixels.append(preprocess(picture.image.crop(box)))
                kinds.append(KINDS.index(thing.kind))
    return torch.stack(pixels), torch.tensor(kinds)


def near_box(box: Box, rng: random.Random) -> Box:
    """RETURNS (Box): The box with each edge moved a little, as a detector might give it."""
    left, upper, right, lower = box
    sides = (right - left, lower - upper) * 2
    ranges = [(-0.1, 0.06)] * 2 + [(-0.06, 0.1)] * 2
    moves = [round(side * rng.uniform(*span)) for side, span in zip(sides, ranges)]
    return left + moves[0], upper + moves[1], right + moves[2], lower + moves[3]


def around_box(box: Box, image: Image.Image, rng: random.Random) -> Box:
    """RETURNS (Box): The box with what is around it, up to twice its size, inside the picture. The object
    looks smaller in it, as objects do in the whole picture.
    """
    left, upper, right, lower = box
    reach = max(right - left, lower - upper) * rng.uniform(0.1, 0.6)
    first = [max(0, round(side - reach * rng.random())) for side in (left, upper)]
    last = [round(side + reach * rng.random()) for side in (right, lower)]
    return first[0], first[1], min(image.width, last[0]), min(image.height, last[1])


def _fit(model: nn.Module, crops: Tensor, kinds: Tensor, epochs: int, learn_rate: float) -> None:
    """Train a classifier in place, on each crop once an epoch but for the last incomplete batch."""
    n, batch_size = len(crops), 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=learn_rate, weight_decay=0.02, fused=True)
    steps = epochs * (n // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learn_rate, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(n)[: n - n % batch_size].split(batch_size):
            pixels = crops[rows]
            if torch.rand(()) < 0.5:
                pixels = pixels.flip(-1)
            loss = loss_of(model(pixels), kinds[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


if __name__ == "__main__":
    typer.run(main)
