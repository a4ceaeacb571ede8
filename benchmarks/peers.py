"""Other tools for benchmarks, each in an environment of its own under `.bench/`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parents[1] / ".bench"


def environment(name: str, *requirements: str) -> Path | None:
    """Return the Python of the environment `name`, made on first use; None if it cannot be made.

    What cannot be installed is told: no figure stands in for a peer that did not run.
    """
    python = HOME / name / "bin" / "python"
    if (HOME / name / "installed").exists():
        return python
    print(f"installing {', '.join(requirements)} ...", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", HOME / name], check=False)
    pip = [python, "-m", "pip", "install", "--quiet", *requirements]
    if made.returncode or subprocess.run(pip, check=False).returncode:
        print(f"{name} cannot be installed here: it is not compared")
        return None
    (HOME / name / "installed").touch()
    return python
