"""A report folder to write to."""

import pytest
from report.folder import Reports


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path / "reports", "03_hard_negatives")
