"""What this image holds, as `name=value` lines for the image's labels."""

import importlib.metadata
import platform

# The oldest NVIDIA driver that a CUDA line runs on (minor version compatibility).
DRIVERS = {"12": "525.60.13", "13": "580.65.06"}
LIBRARIES = ("transformers", "peft", "accelerate", "safetensors", "tokenizers")


def facts() -> dict[str, str]:
    """Names and versions; `cuda` and `driver` are `none` in the CPU flavour."""
    import torch

    cuda = torch.version.cuda or "none"
    found = {"python": platform.python_version(), "torch": torch.__version__.split("+")[0], "cuda": cuda}
    found["driver"] = DRIVERS.get(cuda.split(".")[0], "unknown") if cuda != "none" else "none"
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found


if __name__ == "__main__":
    for name, value in facts().items():
        print(f"{name}={value}")
