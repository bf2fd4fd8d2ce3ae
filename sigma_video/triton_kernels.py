"""Whether Triton kernels run in this process. Nothing here imports Triton, which PyTorch installs for CUDA only."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec


def kernels_run(probe: Callable[[], object], *, otherwise: str) -> bool:
    """Whether a call that launches kernels works; warns if Triton is installed and it does not.

    Triton builds its launcher with a C compiler and Python's headers, which small container images lack.

    Args:
        probe: launches them, once.
        otherwise: what happens without them, the beginning of the warning.
    """
    if find_spec("triton") is None:
        return False
    try:
        probe()
    except Exception as error:  # noqa: BLE001  (compiler, driver, old GPU: plain PyTorch needs none of them)
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"{otherwise} ({reason}): install a C compiler and Python's headers (apt-get install gcc python3-dev)",
            stacklevel=3,
        )
        return False
    return True
