"""A work function for tests of the engines, in a module that other processes can import."""

import os
import signal
import time


def misbehave(work):
    """What the work says: `pid`, `gpu` and other words are done, the rest goes wrong."""
    if work == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if work == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if work == "hang":
        time.sleep(600)
    if work == "bug":
        raise KeyError("a mistake of ours")
    if work == "full":
        raise OSError(28, "No space left on device", "/disk/x.mp4")
    if work == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if work == "pid":
        return {"did": os.getpid()}
    if work == "gpu":
        return {"did": os.environ.get("CUDA_VISIBLE_DEVICES")}
    return {"did": work}
