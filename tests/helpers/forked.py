"""Processes that need not import everything again: the command, or Python code, in a fork of a process that has it all.

``Popen`` and ``run`` take what those of `subprocess` take, for commands that begin with this Python or with the console
script. The process is a real one: it has its own pid, streams, environment and folder, and can be interrupted or killed.
Whoever tests what is imported, hashed or set up at the start of a process starts it with `subprocess`.

``python forked.py FD`` is the process that forks. It imports what commands import late, then answers requests on that
socket: a line of JSON with the descriptors of the three streams and of a pipe, on which the exit status is told.
"""

from __future__ import annotations

import atexit
import functools
import gc
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("hela-store")
LONGEST = 1 << 20
STREAMS = 3


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=os.environ | {"OMP_NUM_THREADS": "1"})
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


class Popen(subprocess.Popen[Any]):
    """A process as `subprocess.Popen` starts it, forked from one that has imported everything."""

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(super()._execute_child).bind(*given).arguments  # type: ignore[misc]
        if asked["pass_fds"] or asked["preexec_fn"] or asked["shell"]:
            raise ValueError("a fork takes neither descriptors nor a function or shell; use subprocess")
        request = {
            "words": [os.fspath(word) for word in asked["args"]],
            "folder": os.fspath(asked["cwd"] or Path.cwd()),
            "environment": dict(asked["env"] if asked["env"] is not None else os.environ),
            "session": asked["start_new_session"],
        }
        streams = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        self._told, tell = os.pipe()
        try:
            descriptors = [usual if given == -1 else given for usual, given in enumerate(streams)]
            socket.send_fds(_server(), [json.dumps(request).encode()], [*descriptors, tell])
            self.pid = int(_server().recv(LONGEST))
        finally:
            os.close(tell)
            ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(asked[end] for end in ends))  # type: ignore[attr-defined]
        self._child_created = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._told], [], [], 0)[0]:
            return 0, 0
        status = os.read(self._told, 64)
        os.close(self._told)
        return self.pid, int(status)

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def run(
    command: list[Any], *, capture_output: bool = False, check: bool = False, timeout: float | None = None, **how: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end, as `subprocess.run`."""
    if capture_output:
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


# ---- the process that forks


def _serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for every request; return it in the process that is to answer it, and end when nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes in the middle
    while True:
        text, descriptors, _, _ = socket.recv_fds(requests, LONGEST, STREAMS + 1)
        if not text:
            sys.exit()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asker = os.fork()
            if asker == 0:
                for wanted, given in enumerate(descriptors[:STREAMS]):
                    os.dup2(given, wanted)
                for descriptor in descriptors:
                    os.close(descriptor)
                requests.close()
                found: dict[str, Any] = json.loads(text)
                return found
            requests.send(str(asker).encode())
            for descriptor in [*range(STREAMS), *descriptors[:STREAMS]]:
                os.close(descriptor)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.write(descriptors[STREAMS], str(os.waitpid(asker, 0)[1]).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: dict[str, Any]) -> None:
    """Make this process what Python would be at its start."""
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.path[1:1] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _answer(words: list[str]) -> None:
    """Run a command: the console script, code after ``-c``, or a file."""
    if words[0] == str(COMMAND):
        sys.argv = words
        _main(COMMAND)
        from hela_store_cli.main import main

        sys.exit(main())
    elif words[1] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[3:]], ""
        exec(compile(words[2], "<string>", "exec"), _main(None).__dict__)
    else:
        sys.argv, sys.path[0] = words[1:], os.path.dirname(os.path.abspath(words[1]))  # noqa: PTH120, PTH100
        runpy.run_path(words[1], run_name="__main__")


def _main(path: Path | None) -> types.ModuleType:
    found = types.ModuleType("__main__")
    if path is not None:
        found.__file__ = str(path)
    sys.modules["__main__"] = found
    return found


def _end(code: int) -> None:
    """End as Python does, but leave the memory, which is shared and large, to the system."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _import_all() -> None:
    import torch

    import hela_store.detection.train
    import hela_store.embedding.embed
    import hela_store.embedding.pipeline
    import hela_store.evaluation.evaluate
    import hela_store.integrity.verify
    import hela_store.segmentation.segment
    import hela_store.show.explorer
    import hela_store.teaching
    import hela_store.training.finetune  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _import_all()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(asked)
    try:
        _answer(asked["words"])
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        _end(end.code or 0)
    _end(0)
