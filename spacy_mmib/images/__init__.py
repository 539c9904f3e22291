"""The room between whatever a user attached to a post and an RGB picture.

`values` knows which kinds of value `doc._.image` may hold and how they are stored, `reading` opens them
with Pillow. Only `reading` imports Pillow.
"""
