"""How long RelevanceExplorer takes to answer a control on 6,000 images, 32 tokens of 256.

python benchmarks/explorer.py
"""

import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, parser, write_rows

sys.path.extend([str(ROOT / "tests" / "helpers"), str(ROOT / "notebooks")])
from drawn_queries import draw_explorer


def main() -> None:
    options = parser(__doc__).parse_args()
    images, rows = 600 if options.reduced else 6000, []
    with tempfile.TemporaryDirectory() as folder:
        explorer = draw_explorer(Path(folder), images, tokens=32, width=256)
        explorer.overlay.value = "epoch 5"
        for values in (("largest", 3, 100), ("release", 1, 0), ("largest", 5, 20)):
            for control, value in zip(("rule", "threshold", "search_window"), values, strict=True):
                started = time.perf_counter()
                getattr(explorer, control).value = value
                taken = 1000 * (time.perf_counter() - started)
                rows.append({"what": f"answer to {control}", "value": taken, "unit": "ms"})
    write_rows([row | {"size": f"{images} images"} for row in rows], options.out, "explorer")


if __name__ == "__main__":
    main()
