"""`bundled:pocket`, the base model that comes with the package: small, and built by `build`."""

from pathlib import Path


def path() -> Path:
    """The folder of the weights, as `from_pretrained` takes it."""
    return Path(__file__).parent / "weights"
