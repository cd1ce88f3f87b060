import os
import signal
import socket
import subprocess
import sys

import forked
import pytest

from hela_store.base.locks import embed_lock
from hela_store.errors import StoreError

HOLD = (
    "import sys, time; from pathlib import Path; from hela_store.base.locks import embed_lock\n"
    "with embed_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"
)


def test_the_second_is_told_who_holds_it_and_a_killed_one_holds_nothing(tmp_path):
    with forked.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "held\n"
            with pytest.raises(StoreError, match=f"by process {first.pid} on {socket.gethostname()} since"):
                with embed_lock(tmp_path):
                    pass
        finally:
            first.send_signal(signal.SIGKILL)
    with embed_lock(tmp_path):
        pass


def test_it_is_released_by_an_error_and_leaves_no_holder(tmp_path):
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the lock is held when the error comes
        with embed_lock(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".embed.holder.json").read_text()
            raise KeyboardInterrupt
    assert not (tmp_path / ".embed.holder.json").exists()
    with embed_lock(tmp_path):
        with pytest.raises(StoreError, match=f"by process {os.getpid()}"):
            with embed_lock(tmp_path):
                pass
