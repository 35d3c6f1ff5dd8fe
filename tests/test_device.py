"""Where torch computes, and whether a GPU stands idle."""

import warnings

import pytest
import torch

from qure_lib import device


@pytest.mark.parametrize(
    ("usable", "built_for", "there", "chosen", "warns"),
    [
        (True, "12.8", True, "cuda", False),
        (False, None, True, "cpu", True),
        (False, None, False, "cpu", False),
        (False, "12.8", True, "cpu", False),  # a build for GPUs: its owner has hidden them
    ],
)
def test_the_device_and_its_warning(monkeypatch, usable, built_for, there, chosen, warns):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(device, "has_gpu", lambda: there)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert device.find_device().type == chosen
    assert len(said) == warns
    if warns:
        assert "has a GPU, but torch" in str(said[0].message) and "docs/speed.md" in str(
            said[0].message
        )


def test_names_and_cores():
    assert device.describe_device("cpu") == "cpu"
    assert device.usable_cores() >= 1
    if not torch.cuda.is_available():
        assert device.describe_device() == "cpu"


def test_half_precision_is_a_gpus_alone():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        with device.autocast(cpu, dtype):
            assert not torch.is_autocast_enabled("cpu")
        if torch.cuda.is_available():
            with device.autocast(gpu, dtype):
                assert torch.is_autocast_enabled("cuda") == (dtype != torch.float32)
