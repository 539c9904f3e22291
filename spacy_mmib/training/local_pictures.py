"""Tie the pictures of posts to a folder, before a post meets a pipeline."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from spacy.tokens import Doc

from ..images.errors import ImageError, describe_kinds
from ..images.files import bind, refuse_url
from ..images.values import to_stored
from ..post.extensions import get_regions, get_stored_images, set_image_error, set_images, set_regions
from ..post.regions import Region, to_picture

ImageCheck: TypeAlias = Literal["header", "decode", "none"]
"""How closely pictures are looked at: opened by their header, decoded in full, or only looked up."""

Outcome: TypeAlias = Literal["with_picture", "absent", "missing", "unreadable", "refused"]
"""What became of the picture of a post, as `PictureCounts` has it; "absent": it never had one."""


@dataclass
class PictureCounts:
    """What was found while reading posts: of how many the picture can be used (`with_picture`), isn't there
    (`missing`), can't be opened (`unreadable`), or leads out of the image root (`refused`).

    dropped_pictures (int): Pictures (not posts) that were left out where another of the post can be used.
    dropped_crops (int): Crops (not posts) that were left out for any of these reasons.
    reasons (Counter[str]): Pictures and crops that were not used, by kind of reason (`images.errors.KINDS`).
    example (Optional[str]): Why the first picture or crop that was not used was not.
    """

    posts: int = 0
    with_picture: int = 0
    missing: int = 0
    unreadable: int = 0
    refused: int = 0
    dropped_pictures: int = 0
    dropped_crops: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    example: str | None = field(default=None, compare=False)

    @property
    def not_used(self) -> int:
        """RETURNS (int): Pictures and crops that were attached but not used."""
        return self.missing + self.unreadable + self.refused + self.dropped_pictures + self.dropped_crops

    def add(self, outcome: Outcome, pictures: Sequence[ImageError], crops: Sequence[ImageError]) -> None:
        """Count a post: what became of its pictures, and why those, or its crops, can't be used."""
        self.posts += 1
        if outcome != "absent":
            setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "with_picture":
            self.dropped_pictures += len(pictures)
        self.dropped_crops += len(crops)
        for error in (*pictures, *crops):
            self.reasons[error.kind] += 1
            self.example = self.example or str(error)

    def summary(self) -> str:
        """RETURNS (str): One line for people."""
        line = (
            f"{self.posts} posts, {self.with_picture} with a picture, {self.missing} files missing, "
            f"{self.unreadable} unreadable, {self.refused} outside the image root"
        )
        if self.dropped_pictures:
            line += f", {self.dropped_pictures} further pictures left out"
        if self.dropped_crops:
            line += f", {self.dropped_crops} crops of objects left out"
        # Where only files are missing or outside, that has been said.
        if self.unreadable or self.dropped_pictures or self.dropped_crops:
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

    def localize(
        self, doc: Doc, counts: PictureCounts | None = None, known: Mapping[int, str] | None = None
    ) -> Outcome:
        """Make the paths on a post absolute, in place. Pictures that can't be used are taken off together
        with their objects, crops alone, and `doc._.image_error` says why.

        counts (Optional[PictureCounts]): Where the post is counted.
        known (Optional[Mapping[int, str]]): Why pictures can't be used, by their index.
        RETURNS (Outcome): What became of the pictures: of the first, if none can be used.
        """
        images = get_stored_images(doc)
        kept: list[Any] = []
        places: dict[int, int] = {}  # of those that are kept
        errors: list[ImageError] = []
        said: list[str] = []
        for i, stored in enumerate(images):
            try:
                if known is not None and i in known:
                    raise ImageError(known[i], kind="not_a_picture")
                value = to_stored(self._localize_value(stored))
                if value is None:
                    raise TypeError("there is nothing in its place")
            except (TypeError, ValueError) as err:  # not an ImageError: written past the setter
                error = err if isinstance(err, ImageError) else ImageError(str(err), kind="not_a_picture")
                errors.append(error)
                said.append(f"picture {i + 1} of {len(images)}: {err}" if len(images) > 1 else str(err))
            else:
                places[i] = len(kept)
                kept.append(value)
        crops: list[ImageError] = []
        outcome: Outcome = "with_picture" if kept else "absent"
        if images:
            set_images(doc, kept, keep_regions=True)
        if kept or not images:
            crops = self._localize_regions(doc, places, len(images))
            said += [f"some of its objects are left out, the first because: {err}" for err in crops[:1]]
        else:
            set_regions(doc, None)
            outcomes: dict[str, Outcome] = {"outside": "refused", "missing": "missing"}
            outcome = outcomes.get(errors[0].kind, "unreadable")
        if said:
            set_image_error(doc, "; ".join(said))
        if counts is not None:
            counts.add(outcome, errors, crops)
        return outcome

    def _localize_regions(self, doc: Doc, places: Mapping[int, int], n_pictures: int) -> list[ImageError]:
        """Move regions to where their pictures are now.

        RETURNS (List[ImageError]): Why regions of these are left out, for each that is.
        """
        try:
            regions = get_regions(doc)
        except TypeError as err:  # written past the setter, by hand or by a foreign program
            set_regions(doc, None)
            return [ImageError(str(err), kind="box")]
        kept: list[Region] = []
        errors: list[ImageError] = []
        for region in regions:
            number = 0 if isinstance(region, str) else region.get("image", 0)
            if number < n_pictures and number not in places:
                continue  # its picture isn't there either
            region = to_picture(region, places.get(number, number))
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
