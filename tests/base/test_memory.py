from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from hela_store.base.memory import keep_freed_memory

def faults():
    def work():
        kept = [np.ones(1 << 20) for _ in range(4)]
        return kept[0] + kept[1]
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries keep freed memory by rules of their own"
)
def test_freed_memory_is_used_again_without_page_faults() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    pages = 5 * 5 * (8 << 20) // resource.getpagesize()
    assert int(told.stdout) < pages / 100
