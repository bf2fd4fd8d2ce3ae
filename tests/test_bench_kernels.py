"""bench/kernels.py: what it counts, and limits on it, so that a slower kernel shows where no GPU is."""

import json
import subprocess
import sys

import pytest
from processes import ROOT, fresh

pytest.importorskip("triton", reason="Triton is not installed (pip install triton)")

COMMAND = [sys.executable, "bench/kernels.py", "--capability", "90", "--prototypes"]
# By kernel, with 3,000 prototypes on Hopper: instructions in the loop over rows, barriers in it, registers of a thread.
# More than 128 registers, and fewer than four blocks of four warps fit on a multiprocessor.
LIMITS = {
    "first marginals": (150, 0, 128),
    "first marginals, small epsilon": (320, 0, 128),
    "marginals": (200, 3, 128),
    "marginals, small epsilon": (270, 6, 128),
    "codes": (280, 4, 128),
    "loss": (220, 3, 128),
    "loss and error": (360, 3, 128),
}


def assert_within_limits(row):
    instructions, barriers, registers = LIMITS[row["kernel"]]
    assert row["loop_instructions"] <= instructions, row
    assert row["loop_barriers"] <= barriers, row
    assert row["registers"] <= registers, row


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Of 3,000 prototypes, and of a number that is no multiple of eight."""
    file = tmp_path_factory.mktemp("kernels") / "kernels.json"
    done = fresh(*COMMAND, "3000", "1001", "--json", file, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())["rows"]


@pytest.mark.slow
def test_no_kernel_has_become_slower(rows):
    found = {row["kernel"]: row for row in rows if row["prototypes"] == 3000}
    assert found.keys() == LIMITS.keys()
    for row in found.values():
        assert_within_limits(row)


@pytest.mark.slow
def test_nothing_is_spilled_and_loads_are_whole_vectors(rows):
    for row in rows:
        assert row["spills"] == 0 and row["load_bytes"] == 16, row
    (pixels,) = (row for row in rows if row["kernel"] == "pixel targets")
    assert pixels["registers"] <= 64 and pixels["instructions"] <= 500


SASS = """
	.section	.text._k,"ax",@progbits
.text._k:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.U16.CONSTANT R2, desc[UR4][R2.64] ;
        /*0020*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
        /*0050*/                   STG.E desc[UR4][R2.64], R4 ;
        /*0060*/                   EXIT ;
.L_x_2:
        /*0070*/                   BRA `(.L_x_2);
        /*0080*/                   NOP;
"""


QUICK = """
import json, sys
from bench.kernels import asdict, disassembly, longest_loop, measure, row_kernels, widest
code = disassembly(sys.stdin.read())
body = [word for _, word in code[longest_loop(code)]]
barriers = sum(word.startswith("BAR.SYNC") for word in body)
read = len(code), len(body), barriers, widest(body, "LDG"), widest(body, "STG")
used = [kernel for kernel in row_kernels(3000) if kernel.name in ("marginals", "loss and error")]
print(json.dumps([read, [asdict(row) for row in measure(used, [90])]]))
"""


def test_a_disassembly_is_read_and_the_kernels_of_a_step_are_within_limits():
    """In a process of its own: in this one kernels are for the interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", QUICK], input=SASS, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read, rows = json.loads(done.stdout)
    assert read == [7, 4, 1, 16, 0]
    assert [row["kernel"] for row in rows] == ["marginals", "loss and error"]
    for row in rows:
        assert_within_limits(row)
        assert row["spills"] == 0 and row["load_bytes"] == 16, row
