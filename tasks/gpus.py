"""The GPUs of this machine, asked of the driver."""

import shutil
import subprocess


def gpu_names() -> list[str]:
    """The NVIDIA GPUs by name; torch, which could tell, too, would open a context on each."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.splitlines() if asked.returncode == 0 else []
