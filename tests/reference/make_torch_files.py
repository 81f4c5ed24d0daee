"""Writes the files of torch.save in tests/golden/torch, and what torch.load reads from them.

    python make_torch_files.py --tiny tests/golden/tiny/checkpoint --out tests/golden/torch

`state.safetensors` holds the float tensors of the small state dict that all `state*.bin` hold, as torch.load gives them
and as 32-bit floats. `tiny/` has the weights of the tiny checkpoint as bfloat16, in shards. `unsafe*.bin` run a
command when they are loaded without weights_only. Versions: requirements.txt beside this file.
"""

import argparse
import collections
import os
import pathlib
import tempfile

import torch
from safetensors.torch import save_file


def state_dict():
    torch.manual_seed(31)
    table = torch.randn(6, 5)
    shared = torch.randn(40)
    state = collections.OrderedDict(
        {
            "f32": table,
            "f16": torch.tensor([0.0, -0.0, 1.0, -2.5, 65504.0, 6e-8, 0.333], dtype=torch.float16),
            "bf16": torch.randn(3, 1, 2).bfloat16(),
            "f64": torch.tensor([1 / 3, 1e-40, -1e30, 1 + 2**-24, 1 + 2**-24 + 2**-40], dtype=torch.float64),
            "transposed": torch.randn(4, 7).t(),
            "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
            "tied": table,
            "rows_of_tied": table[2:5],
            "columns_of_tied": table[:, 1:3],
            "every_third": shared[4::3],
            "one_of_shared": shared[17:18],
            "expanded": torch.randn(9)[None, :].expand(1, -1),
            "scalar": torch.tensor(2.6592),
            "empty": torch.zeros(0, 4),
            "parameter": torch.nn.Parameter(torch.randn(2, 2)),
            "position_ids": torch.arange(12).expand(1, -1),
            "mask": torch.tensor([True, False]),
            "small": torch.tensor([[1, 2]], dtype=torch.int32),
        }
    )
    # Metadata of a module's state_dict().
    state._metadata = collections.OrderedDict({"": {"version": 1}, "layer": {"version": 2, "more": [1.5, None]}})
    return state


class Run:
    def __reduce__(self):
        return os.system, ("touch /tmp/pickle-was-run",)


def tiny(checkpoint, out):
    from transformers import VisionTextDualEncoderModel

    model = VisionTextDualEncoderModel.from_pretrained(checkpoint).bfloat16()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=False, max_shard_size="80KB")
        for path in pathlib.Path(folder).glob("pytorch_model*"):
            (out / "tiny" / path.name).write_bytes(path.read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    (args.out / "tiny").mkdir(parents=True, exist_ok=True)

    state = state_dict()
    torch.save(state, args.out / "state.bin")
    torch.save(dict(state), args.out / "state-protocol-4.bin", pickle_protocol=4)
    torch.save(state, args.out / "state-legacy.bin", _use_new_zipfile_serialization=False)
    for name in ["state.bin", "state-protocol-4.bin", "state-legacy.bin"]:
        # The other reader of PyTorch does not know protocol 4.
        loaded = torch.load(args.out / name, weights_only="4" not in name)
        floats = {key: tensor for key, tensor in loaded.items() if tensor.is_floating_point()}
        floats = {key: tensor.detach().float().contiguous().clone() for key, tensor in floats.items()}
        assert all(torch.equal(tensor, state[key].float()) for key, tensor in floats.items()), name
        save_file(floats, args.out / "state.safetensors")

    unsafe = {"weight": torch.zeros(2), "more": Run()}
    torch.save(unsafe, args.out / "unsafe.bin")
    torch.save(unsafe, args.out / "unsafe-legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"model": state, "epoch": 3}, args.out / "nested.bin")
    tiny(args.tiny, args.out)


if __name__ == "__main__":
    main()
