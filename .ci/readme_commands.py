"""Write the README's two commands to files `first` and `second` in a folder."""

import re
import sys
from pathlib import Path

readme, folder = Path(sys.argv[1]), Path(sys.argv[2])
blocks = re.findall(r"^```bash\n(.*?)^```", readme.read_text(encoding="utf8"), flags=re.S | re.M)
for name, block in zip(("first", "second"), blocks[:2], strict=True):
    (folder / name).write_text(block, encoding="utf8")
