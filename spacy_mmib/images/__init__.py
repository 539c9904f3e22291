"""From whatever a user attached to a post to an RGB picture: the one place where strangers' files are read.

`reading` decodes with Pillow, which only its `colours` imports, too, within the limits in `errors`; `files`
opens what is inside a stated folder; `reader` is what a config sets up: it has pictures read by threads, or
on their behalf by a `process`.
"""
