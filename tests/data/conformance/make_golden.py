"""Makes a conformance folder of a causal language model: python3 make_golden.py FOLDER, which holds a config.json; or
golden.safetensors alone, for the weights of another folder: python3 make_golden.py FOLDER OTHER_FOLDER.

Writes random bf16 weights and golden.safetensors as transformers computes them (eager attention, float32 arithmetic
on the bf16 weights): two sequences of 24 ids, logits and hidden states of every position, and 16 greedy ids with
their margins. Takes the first seed whose greedy choices are clear. Needs torch and transformers; `make test` does not
run it. starcoder2 was made with transformers 5.17.
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

CLEAR = 0.02  # smallest margin of a greedy choice


def build(config, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 1.5 / p.shape[-1] ** 0.5)
            else:  # norms around 1, biases around 0
                p.normal_(0, 0.2).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            p.copy_(p.bfloat16().float())
    return model


def golden(model, ids):
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        tensors = {"input_ids": ids, "logits": out.logits}
        for n, h in enumerate(out.hidden_states):
            tensors[f"hidden.{n}"] = h
        chosen, margins, grown = [], [], ids
        for _ in range(16):
            top = model(grown).logits[:, -1].topk(2)
            chosen.append(top.indices[:, 0])
            margins.append(top.values[:, 0] - top.values[:, 1])
            grown = torch.cat([grown, chosen[-1][:, None]], 1)
    tensors["greedy_ids"] = torch.stack(chosen, 1)
    tensors["greedy_margin"] = torch.stack(margins, 1)
    return {k: v.contiguous() for k, v in tensors.items()}


def report(result, seed):
    margin, deviation = result["greedy_margin"].min(), result["logits"].std()
    print(f"seed {seed}, smallest margin {margin:.3f}, logits' deviation {deviation:.3f}")


def random_ids(config, seed):
    return torch.randint(0, config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(seed))


folder = pathlib.Path(sys.argv[1])
source = pathlib.Path(sys.argv[-1])
config = AutoConfig.from_pretrained(source)
given = None
if source != folder:
    given = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
for seed in range(1000):
    model = given or build(config, seed)
    result = golden(model, random_ids(config, seed))
    if result["greedy_margin"].min() > CLEAR:
        break
if given is None:
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {k: v.bfloat16() for k, v in model.state_dict().items() if k not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
save_file(result, folder / "golden.safetensors")
report(result, seed)
