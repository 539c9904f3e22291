"""Run the README's first Python example with the model that the demo has trained, and fail if it doesn't
find what the picture shows: two people, and that they are a couple.
"""

import re
import sys
from pathlib import Path

readme = Path(sys.argv[1]).read_text(encoding="utf8")
example = re.search(r"^```python\n(.*?)^```", readme, flags=re.S | re.M)
assert example is not None
names: dict = {}
exec(compile(example[1], sys.argv[1], "exec"), names)
doc = names["doc"]
found = {ent.label_ for ent in doc.ents}, {relation.label for relation in doc._.relations}
if found != ({"PER"}, {"couple"}):
    sys.exit(f"The README's example finds {found}.")
