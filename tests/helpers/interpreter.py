"""Code in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter with those environment variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OCTAVO_")} | environment
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False, timeout=600
    )
