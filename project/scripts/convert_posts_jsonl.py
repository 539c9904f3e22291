"""Convert JSON lines of tagged posts with pictures into the corpus that spacy-mmib.Corpus.v1 reads.

Expected: `texts/<split>/*.json` with lines {"tokens": [...], "label": [BIO tags], "image_id": file
name}, and `images/<split>/<image_id>`, for the splits train, dev and test.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from corpus_writer import SplitCounts, write_meta, write_split
from picture_files import find_picture
from tagged_posts import FormatError, TaggedPost, check_orphans, read_json_lines

SPLITS = ("train", "dev", "test")


def main(
    data: Annotated[Path, typer.Argument(help="Folder with texts/<split> and images/<split>")],
    output: Annotated[Path, typer.Argument(help="Folder for the corpus")],
    orphans: Annotated[
        str, typer.Option(help="I- tags that continue nothing: drop (O) or begin (an entity)")
    ] = "drop",
) -> None:
    """Convert JSON lines of tagged posts with pictures."""
    try:
        convert(data, output, orphans=orphans)
    except (FormatError, OSError) as err:
        print(f"Not converted. {err}", file=sys.stderr)
        raise typer.Exit(1) from None


def convert(data: Path, output: Path, *, orphans: str = "drop") -> dict[str, SplitCounts]:
    """Convert a dataset.

    data (Path): The folder with `texts` and `images`.
    output (Path): The folder for the corpus.
    orphans (str): See `Orphans`.
    RETURNS (Dict[str, SplitCounts]): What is in each split that is there.
    RAISES (FormatError): Something is not in the format.
    """
    policy = check_orphans(orphans)
    root = (data / "images").resolve()
    posts = {}
    for split in SPLITS:
        folder = data / "texts" / split
        files = sorted(folder.glob("*.json*"))
        if files:
            posts[split] = [post for file in files for post in read_json_lines(file)]
        elif folder.is_dir() or not (data / "texts").is_dir():
            raise FormatError(f"There is no file {folder / '*.json'}.")
    if not posts:
        raise FormatError(f"There is no folder {data / 'texts' / 'train'}, nor dev, nor test.")
    counts = {
        split: write_split(
            split_posts,
            output / f"{split}.spacy",
            orphans=policy,
            find_picture=partial(_find_picture, root, split),
        )
        for split, split_posts in posts.items()
    }
    write_meta(
        output,
        source=data.resolve().name,
        orphans=policy,
        regions="none",
        image_root=root,
        splits=counts,
    )
    return counts


def _find_picture(root: Path, split: str, post: TaggedPost) -> str:
    return find_picture(root / split, post.id, root)


if __name__ == "__main__":
    typer.run(main)
