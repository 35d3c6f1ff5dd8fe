"""Where torch computes: the device, its name, and whether a GPU stands idle."""

import os
import shutil
import warnings

import torch


def find_device() -> torch.device:
    """The GPU if torch can use one, the CPU otherwise.

    Warns where the machine has an NVIDIA GPU and torch is a build for CPUs.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.version.cuda is None and has_gpu():
        warnings.warn(
            f"this machine has a GPU, but torch {torch.__version__} is a build for CPUs: all runs "
            "on the CPU. docs/speed.md says how to get the other build",
            stacklevel=2,
        )
    return torch.device("cpu")


def has_gpu() -> bool:
    """Whether an NVIDIA driver is installed, whatever torch's build."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


def describe_device(device: torch.device | str = "cuda") -> str:
    """The GPU's name, or "cpu"."""
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if on_gpu else "cpu"


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to a half precision on a GPU; elsewhere, and for float32, none."""
    half = device.type == "cuda" and dtype != torch.float32
    return torch.autocast(device.type, dtype if half else None, enabled=half)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
