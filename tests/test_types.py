"""The library is typed, and those who use it see its types."""

import subprocess
import sys

USER = """
from qure_lib import QuReModel, hard_negatives, recall_at_k

model: QuReModel = QuReModel.from_pretrained("runs/x/best", local_files_only=False)
width: int = model.config.embedding_dim
hard_negatives([[1.0]], [0])  # wrong: lists are no arrays
recall_at_k([0, 3], 10).item()
recall_at_k([0, 3], 10).no_such_attribute  # wrong
from qure_lib import no_such_name  # wrong
"""


def test_mypy_finds_nothing_in_the_library_and_the_mistakes_of_its_user(root, tmp_path):
    user = tmp_path / "user.py"
    user.write_text(USER)
    command = [sys.executable, "-m", "mypy", "qure_lib", str(user), "--no-pretty"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    of_user = {int(line.split(":")[1]) for line in errors if user.name in line}
    assert [line for line in errors if user.name not in line] == []
    wrong = {n for n, line in enumerate(USER.splitlines(), 1) if "# wrong" in line}
    assert of_user == wrong, done.stdout + done.stderr
