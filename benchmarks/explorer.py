"""How long RelevanceExplorer takes to answer a control on 6,000 images, 32 tokens of 256.

python benchmarks/explorer.py
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_widgets import build  # an explorer over drawn embeddings

with tempfile.TemporaryDirectory() as folder:
    explorer = build(Path(folder), 6000, tokens=32, width=256)
    explorer.overlay.value = "epoch 5"
    print("control,milliseconds")
    for values in (("largest", 3, 100), ("release", 1, 0), ("largest", 5, 20)):
        for control, value in zip(("rule", "threshold", "search_window"), values, strict=True):
            started = time.perf_counter()
            getattr(explorer, control).value = value
            print(f"{control},{1000 * (time.perf_counter() - started):.0f}")
