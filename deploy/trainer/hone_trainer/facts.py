"""What this image holds, as `name=value` lines for the image's labels."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

# The oldest NVIDIA driver that a CUDA line runs on (minor version compatibility).
DRIVERS = {"12": "525.60.13", "13": "580.65.06"}
# GPUs of compute capability 10.0 and 12.0 came with CUDA 12.8, and need its driver.
BLACKWELL_DRIVERS = {"12": "570.26", "13": "580.65.06"}
LIBRARIES = ("transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "huggingface_hub")


def facts() -> dict[str, str]:
    """Names and versions; `cuda` and the drivers are `none` in the CPU flavour."""
    import torch

    cuda = torch.version.cuda or "none"
    found = {"python": platform.python_version(), "torch": torch.__version__.split("+")[0], "cuda": cuda}
    for name, drivers in (("driver", DRIVERS), ("driver_blackwell", BLACKWELL_DRIVERS)):
        found[name] = drivers.get(cuda.split(".")[0], "unknown") if cuda != "none" else "none"
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found


def distribution_facts() -> dict[str, str]:
    """The distribution's part, and `packages`: every package with its version, on one line."""
    listed = _dpkg("${Package}=${Version}\\n").split()
    locked = [
        f"{found.name}=={found.version}"
        for found in importlib.metadata.distributions()
        if str(found.locate_file("")).startswith("/usr/local/")
    ]
    versions = dict(line.split("=", 1) for line in listed)
    return {
        "debian": Path("/etc/debian_version").read_text().strip(),
        "openblas": versions.get("libopenblas0-openmp", "none"),
        "packages": " ".join([*listed, *sorted(locked, key=str.lower)]),
    }


def _dpkg(line: str) -> str:
    command = ["dpkg-query", "--show", "--showformat", line]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for name, value in (facts() | distribution_facts()).items():
        print(f"{name}={value}")
