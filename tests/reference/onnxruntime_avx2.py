"""Copies the installed ONNX Runtime so that the copy does not use AVX-512.

    python onnxruntime_avx2.py FOLDER
    PYTHONPATH=FOLDER python compare_onnxruntime.py compare ... --isa avx2

ONNX Runtime has no switch for that. It asks the processor which registers the system saves (`xgetbv`) and leaves
AVX-512 and AMX alone where the answer has no bits for them; in the copy the answer is always 7: x87, SSE and AVX. Both
instruction sequences are three bytes long. For x86-64 Linux.
"""

import pathlib
import shutil
import sys

import onnxruntime

# xor ecx, ecx; xgetbv -> xor ecx, ecx; push 7; pop rax
ASKS = bytes.fromhex("31c9 0f01d0")
ANSWERS = bytes.fromhex("31c9 6a0758")


def main():
    source = pathlib.Path(onnxruntime.__file__).parent
    target = pathlib.Path(sys.argv[1]) / "onnxruntime"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    [library] = target.glob("capi/onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    print(f"{library}: {code.count(ASKS)} places changed")
    assert code.count(ASKS) in range(1, 6), "another version than 1.32.0?"
    library.write_bytes(code.replace(ASKS, ANSWERS))


if __name__ == "__main__":
    main()
