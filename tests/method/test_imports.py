"""What the method's modules load: mining needs neither `transformers` nor another room."""

import json
import subprocess
import sys


def modules_after(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_mining_loads_no_transformers_and_no_other_room(root, monkeypatch):
    monkeypatch.chdir(root)
    loaded = modules_after("import qure_lib.method.mining")
    assert "torch" in loaded and "transformers" not in loaded
    ours = {name for name in loaded if name.startswith("qure_lib.")}
    assert "qure_lib.method.drops" in ours
    assert {name.split(".")[1] for name in ours} == {"method", "arrays"}
