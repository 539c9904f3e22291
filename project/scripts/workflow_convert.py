"""Convert a published dataset into project/data: what `spacy project run convert-twitter17` calls."""

import argparse
import sys
from pathlib import Path

import convert_mnre
import convert_twitter
from picture_files import LayoutError
from tagged_posts import FormatError
from wasabi import msg
from workflow_data import add_folder_arguments, explain_texts, read_folders


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_folder_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("project/data"))
    args = parser.parse_args()
    folders = read_folders(args)
    output = args.output / args.dataset
    try:
        if args.dataset == "mnre":
            convert_mnre.convert(folders.data, output, images=folders.images)
        else:
            # Crops are of no use without the pictures; check_data.py has said what is missing.
            images = folders.images
            convert_twitter.convert(
                folders.data,
                output,
                images=images,
                crops=None if images is None else folders.crops,
                crops_layout=args.crops_layout,
                dicts=folders.dicts,
                orphans=args.orphans,
                tag_column=args.tag_column,
            )
    except (FormatError, LayoutError, OSError) as err:
        msg.fail(f"Not converted. {err}")
        if not folders.data.is_dir():
            msg.text(explain_texts(args.dataset, folders.data))
        sys.exit(1)


if __name__ == "__main__":
    main()
