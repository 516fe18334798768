"""The memory of this process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

# In a process of its own: what tests before have freed may go back to the system meanwhile.
_GROWS = """
import numpy as np
from quantkit.system.memory import peak_memory, present_memory
before, peak = present_memory(), peak_memory()
assert peak >= before > 1 << 20
block = np.ones(32 << 20, dtype=np.uint8)
assert present_memory() > before + (24 << 20)
del block
assert peak_memory() > before + (24 << 20)
"""


def test_memory_grows_and_the_peak_stays() -> None:
    subprocess.run([sys.executable, "-c", _GROWS], check=True)


def test_a_process_does_not_count_its_parents_memory() -> None:
    block = np.ones(256 << 20, dtype=np.uint8)
    code = "from quantkit.system.memory import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < block.nbytes
