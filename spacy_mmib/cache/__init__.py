"""What frozen networks said about pictures, kept from one run to the next.

`database` knows whether a file is one of ours and opens it, `store` keeps entries in it, `codec` turns
vectors and regions into entries and back, `digests` names pictures by their content, and `cache` puts
these together for the picture encoders. Only `database` and `store` know SQLite.
"""
