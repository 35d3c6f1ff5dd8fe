"""What tests of reports share: a report folder, and figures and tables in it."""

import matplotlib.pyplot as plt
import pytest

from qure_lib.reporting import figures
from qure_lib.reporting.reports import Reports


@pytest.fixture
def reports(tmp_path):
    return Reports(tmp_path / "reports", "03_hard_negatives")


@pytest.fixture
def style():
    figures.use_house_style()
    yield
    plt.close("all")
