"""Tie the pictures of posts to a folder, as the reader and `spacy mmib predict` do before a post meets a
pipeline.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from spacy.tokens import Doc

from ..images.errors import ImageError, describe_kinds
from ..images.files import bind, refuse_url
from ..post.extensions import get_regions, get_stored_image, set_image, set_image_error, set_regions
from ..post.regions import Region

ImageCheck: TypeAlias = Literal["header", "decode", "none"]
"""How closely pictures are looked at: opened by their header, decoded in full, or only looked up."""

Outcome: TypeAlias = Literal["with_picture", "absent", "missing", "unreadable", "refused"]
"""What became of the picture of a post, as `PictureCounts` has it; "absent": it never had one."""


@dataclass
class PictureCounts:
    """What was found while reading posts.

    posts (int): Posts read.
    with_picture (int): Posts whose picture can be used.
    missing (int): Posts whose picture file isn't there.
    unreadable (int): Posts whose picture can't be opened.
    refused (int): Posts whose picture path leads out of the image root.
    dropped_crops (int): Crops (not posts) that were left out for any of these reasons.
    reasons (Counter[str]): Pictures and crops that were not used, by kind of reason (`images.errors.KINDS`).
    example (Optional[str]): Why the first picture or crop that was not used was not.
    """

    posts: int = 0
    with_picture: int = 0
    missing: int = 0
    unreadable: int = 0
    refused: int = 0
    dropped_crops: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    example: str | None = field(default=None, compare=False)

    @property
    def not_used(self) -> int:
        """RETURNS (int): Pictures and crops that were attached but not used."""
        return self.missing + self.unreadable + self.refused + self.dropped_crops

    def add(self, outcome: Outcome, errors: Sequence[ImageError]) -> None:
        """Count a post: what became of its picture, and why that, or its crops, can't be used."""
        self.posts += 1
        if outcome != "absent":
            setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome in ("with_picture", "absent"):
            self.dropped_crops += len(errors)
        for error in errors:
            self.reasons[error.kind] += 1
            self.example = self.example or str(error)

    def summary(self) -> str:
        """RETURNS (str): One line for people."""
        line = (
            f"{self.posts} posts, {self.with_picture} with a picture, {self.missing} files missing, "
            f"{self.unreadable} unreadable, {self.refused} outside the image root"
        )
        if self.dropped_crops:
            line += f", {self.dropped_crops} crops of objects left out"
        # Where only files are missing or outside, that has been said.
        if self.unreadable or self.dropped_crops:
            line += f" ({describe_kinds(self.reasons)})"
        return line


class PictureFolder:
    """Makes the pictures of posts usable, or says why they are not. Their paths are bound to the folder:
    whoever opens one later finds out whether it still leads to a file inside.

    root (Union[str, Path]): The folder relative paths start from, and that no path may leave.
    RAISES (ValueError): Another value of `check`.
    """

    def __init__(self, root: str | os.PathLike[str], check: ImageCheck = "header") -> None:
        if check not in get_args(ImageCheck):
            raise ValueError(f"check_images is {check!r}; choose one of {', '.join(get_args(ImageCheck))}.")
        self.root = Path(root)
        self.check = check
        # A corpus is read again at every evaluation. Good files are remembered; bad ones are looked
        # at again, so that somebody who repairs them needs no new process.
        self._good: set[str] = set()

    def localize(self, doc: Doc, counts: PictureCounts | None = None) -> Outcome:
        """Make the paths on a post absolute. A picture that can't be used is taken off together with its
        objects, a crop alone, and `doc._.image_error` says why.

        doc (Doc): The post, changed in place.
        counts (Optional[PictureCounts]): Where the post is counted.
        RETURNS (Outcome): What became of the picture.
        """
        try:
            stored = get_stored_image(doc)
            if stored is not None:
                set_image(doc, self._localize_value(stored), keep_regions=True)
        except (TypeError, ValueError) as err:  # not an ImageError: written past the setter
            error = err if isinstance(err, ImageError) else ImageError(str(err), kind="not_a_picture")
            outcome: Outcome = "unreadable"
            if error.kind in ("outside", "missing"):
                outcome = "refused" if error.kind == "outside" else "missing"
            errors = [error]
            set_image(doc, None)
            set_regions(doc, None)
            set_image_error(doc, str(error))
        else:
            outcome = "absent" if stored is None else "with_picture"
            errors = self._localize_regions(doc)
            if errors:
                set_image_error(doc, f"some of its objects are left out, the first because: {errors[0]}")
        if counts is not None:
            counts.add(outcome, errors)
        return outcome

    def _localize_regions(self, doc: Doc) -> list[ImageError]:
        """RETURNS (List[ImageError]): Why regions are left out, for each that is."""
        try:
            regions = get_regions(doc)
        except TypeError as err:  # written past the setter, by hand or by a foreign program
            set_regions(doc, None)
            return [ImageError(str(err), kind="box")]
        kept: list[Region] = []
        errors: list[ImageError] = []
        for region in regions:
            try:
                kept.append(self._localize_value(region) if isinstance(region, str) else region)
            except ImageError as err:
                errors.append(err)
        if regions:
            set_regions(doc, kept)
        return errors

    def _localize_value(self, value: Any) -> Any:
        if isinstance(value, str):
            refuse_url(value)
            value = bind(value, self.root)
        if self.check != "none" and not (isinstance(value, str) and value in self._good):
            from ..images.reading import probe_image, read_image  # imports Pillow

            probe_image(value) if self.check == "header" else read_image(value)
            if isinstance(value, str):
                self._good.add(value)
        return value
