"""Makes the folders beside it, checkpoints as published, and in OUT what they expand to in bf16, from which transformers
makes their goldens. Needs numpy and ml_dtypes; `make test` does not run it.

  python3 make.py OUT
  python3 ../conformance/make_golden.py gpt_oss_mxfp4 OUT/gpt_oss_bf16, and the same for deepseek_v3_fp8

gpt_oss_mxfp4: ../conformance/gpt_oss with its experts as MXFP4. deepseek_v3_fp8: random weights, sized
so that 128 x 128 blocks are partial along either axis, both, or neither; matrices of the attention are
left in bf16 where modules_to_not_convert says so.
"""
import json
import pathlib
import struct
import sys

import ml_dtypes
import numpy as np

HERE = pathlib.Path(__file__).parent
OUT = pathlib.Path(sys.argv[1])
NAMES = {"BF16": ml_dtypes.bfloat16, "F32": np.float32, "U8": np.uint8, "F8_E4M3": ml_dtypes.float8_e4m3fn}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def read(path):
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, t in json.loads(data[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        tensors[name] = np.frombuffer(data[8 + n + begin : 8 + n + end], NAMES[t["dtype"]]).reshape(t["shape"])
    return tensors


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    kinds = {np.dtype(v): k for k, v in NAMES.items()}
    header, body = {}, b""
    for name in sorted(tensors):
        raw = np.ascontiguousarray(tensors[name]).tobytes()
        header[name] = {
            "dtype": kinds[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def to_mxfp4(x):
    """[.., N, K] -> blocks [.., N, K/32, 16], scales [.., N, K/32], and what they mean."""
    groups = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(groups).max(-1, keepdims=True)
    exponent = np.floor(np.log2(np.maximum(largest, 2.0**-100))) - 2  # the largest e2m1 is 1.5 * 2^2
    scale = np.exp2(exponent)
    codes = np.abs(groups[..., None] / scale[..., None] - E2M1).argmin(-1).astype(np.uint8)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4
    meant = (E2M1[codes] * scale).reshape(x.shape).astype(ml_dtypes.bfloat16)
    return blocks, (exponent[..., 0] + 127).astype(np.uint8), meant


def to_fp8(x, block):
    """[N, K] -> payload, one float32 scale a block, and what they mean."""
    x = x.astype(np.float32)
    n, k = x.shape
    rows, columns = -(-n // block), -(-k // block)
    scale = np.zeros((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            part = x[i * block : (i + 1) * block, j * block : (j + 1) * block]
            scale[i, j] = np.abs(part).max() / 448
    each = scale.repeat(block, 0)[:n].repeat(block, 1)[:, :k]
    payload = (x / each).astype(ml_dtypes.float8_e4m3fn)
    return payload, scale, (payload.astype(np.float32) * each).astype(ml_dtypes.bfloat16)


def gpt_oss():
    kit = HERE.parent / "conformance/gpt_oss"
    config = json.loads((kit / "config.json").read_text())
    packed, plain = {}, {}
    for name, x in read(kit / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed[name] = plain[name] = x
            continue
        blocks, scales, meant = to_mxfp4(np.swapaxes(x, 1, 2))  # the bf16 layout is [E, K, N]
        packed[name + "_blocks"], packed[name + "_scales"] = blocks, scales
        plain[name] = np.swapaxes(meant, 1, 2)
    write(OUT / "gpt_oss_bf16", config, plain)
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
    }
    write(HERE / "gpt_oss_mxfp4", config, packed)


def deepseek_v3():
    config = json.loads((HERE.parent / "conformance/deepseek_v3/config.json").read_text())
    hidden, dense, width, vocab, experts, heads = 144, 264, 40, 64, 4, 4
    config |= {
        "hidden_size": hidden, "intermediate_size": dense, "moe_intermediate_size": width, "vocab_size": vocab,
        "n_routed_experts": experts, "num_attention_heads": heads, "num_key_value_heads": heads}
    q_rank, kv_rank, nope, rope, value = 48, 32, 16, 8, 16
    random = np.random.default_rng(7)
    packed, plain = {}, {}

    def add(name, *shape, quantised=True):
        x = random.standard_normal(shape) / np.sqrt(shape[-1])
        if len(shape) == 1:
            x = 1 + 0.1 * x
        if quantised and len(shape) == 2:  # blocks of very different sizes: a wrong scale shows
            rows, columns = -(-shape[0] // 128), -(-shape[1] // 128)
            factor = np.exp2(random.integers(-2, 3, (rows, columns)))
            x *= factor.repeat(128, 0)[: shape[0]].repeat(128, 1)[:, : shape[1]]
            packed[name], packed[name + "_scale_inv"], plain[name] = to_fp8(x, 128)
        else:
            packed[name] = plain[name] = x.astype(ml_dtypes.bfloat16)

    def mlp(prefix, n):
        add(prefix + "gate_proj.weight", n, hidden)
        add(prefix + "up_proj.weight", n, hidden)
        add(prefix + "down_proj.weight", hidden, n)

    add("model.embed_tokens.weight", vocab, hidden, quantised=False)
    add("lm_head.weight", vocab, hidden, quantised=False)
    add("model.norm.weight", hidden)
    for layer in range(2):
        p = f"model.layers.{layer}."
        add(p + "input_layernorm.weight", hidden)
        add(p + "post_attention_layernorm.weight", hidden)
        a = p + "self_attn."
        add(a + "q_a_proj.weight", q_rank, hidden)
        add(a + "q_a_layernorm.weight", q_rank)
        add(a + "q_b_proj.weight", heads * (nope + rope), q_rank)
        add(a + "kv_a_proj_with_mqa.weight", kv_rank + rope, hidden)
        add(a + "kv_a_layernorm.weight", kv_rank)
        add(a + "kv_b_proj.weight", heads * (nope + value), kv_rank, quantised=False)
        add(a + "o_proj.weight", hidden, heads * value)
        if layer == 0:
            mlp(p + "mlp.", dense)
            continue
        add(p + "mlp.gate.weight", experts, hidden, quantised=False)
        packed[p + "mlp.gate.e_score_correction_bias"] = plain[p + "mlp.gate.e_score_correction_bias"] = (
            random.standard_normal(experts).astype(np.float32))
        mlp(p + "mlp.shared_experts.", width)
        for e in range(experts):
            mlp(f"{p}mlp.experts.{e}.", width)
    write(OUT / "deepseek_v3_bf16", config, plain)
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "kv_b_proj"]}
    write(HERE / "deepseek_v3_fp8", config, packed)


gpt_oss()
deepseek_v3()
