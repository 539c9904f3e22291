"""The room between whatever a user attached to a post and an RGB picture.

`values` knows which kinds of value `doc._.image` may hold and how they are stored; `paths` and `files` open
what is inside a stated folder; `reading` decodes it with Pillow, within `limits`; `reader` is what a config
sets up, and has it done by the threads of `pool` or, on their behalf, by a `process`. Only `reading` and what
it is made of (`colours`, `header`) import Pillow.
"""
