"""Writes seeds of the fuzzers: python seeds.py OUT_DIR (then OUT_DIR/safetensors, OUT_DIR/tokenizer)."""
import json
import os
import struct
import sys


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "good": safetensors({"__metadata__": {"format": "pt"}, "a": entry("F32", [2], 0, 8), "b": entry("BF16", [1, 2], 8, 12),
                         "c": entry("F8_E4M3", [], 12, 13), "d": entry("BOOL", [3], 13, 16)}, bytes(16)),
    "empty": safetensors({}, b""),
    "overlap": safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)),
    "overflow": safetensors({"a": entry("F32", [1 << 32, 1 << 32], 0, 4)}, bytes(4)),
    "zero_size": safetensors({"a": entry("I64", [0, 1 << 62], 0, 0)}, b""),
    "duplicate": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"x"),
    "nested": safetensors(b'{"a":' + b"[" * 2000, b""),
    "nul": safetensors(b'{}\0{"a":1}', b""),
}

VOCAB = {c: i for i, c in enumerate([chr(b) for b in range(33, 127)] + [chr(c) for c in range(161, 173)]
                                    + [chr(c) for c in range(174, 324)])}
VOCAB["he"] = len(VOCAB)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def tokenizer(text=b"", **parts):
    tree = {"added_tokens": [], "normalizer": None, "pre_tokenizer": BYTE_LEVEL, "post_processor": None,
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": VOCAB, "merges": ["h e"], "ignore_merges": False}}
    tree.update(parts)
    return json.dumps(tree, separators=(",", ":")).encode() + (b"\0" + text if text else b"")


ADDED = {"id": len(VOCAB), "content": "<x>", "single_word": False, "lstrip": True, "rstrip": True, "normalized": False,
         "special": True}
SPLIT = {"type": "Split", "pattern": {"Regex": r"(?i:'s)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}+|\s+(?!\S)"},
         "behavior": "MergedWithNext", "invert": True}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>"}}, {"Sequence": {"id": "A"}}],
            "special_tokens": {"<x>": {"id": "<x>", "ids": [len(VOCAB)]}}}
TOKENIZER = {
    "plain": tokenizer(b"hello he"),
    "nfc": tokenizer("e\u0301 <x>".encode(), normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
    "split": tokenizer(b"12345 a's", pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, SPLIT, dict(BYTE_LEVEL, use_regex=False)]}),
    "added": tokenizer(b" <x> <x>", added_tokens=[ADDED], post_processor={"type": "Sequence", "processors": [
        BYTE_LEVEL, TEMPLATE]}),
    "small": b'{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"a"},"pre_tokenizer":{"type":"Split",'
             b'"pattern":{"Regex":"a*"},"behavior":"Removed"},"decoder":{"type":"ByteLevel"}}\0ab',
    "exploding": b'{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"a"},"pre_tokenizer":{"type":"Split",'
                 b'"pattern":{"Regex":"(a+)+[xy]"},"behavior":"Removed"},"decoder":{"type":"ByteLevel"}}\0' + b"a" * 60,
}

BYTES = [f"<0x{b:02X}>" for b in range(256)]
LLAMA = {"type": "BPE", "vocab": {t: i for i, t in enumerate(["<unk>", *BYTES, "\u2581", "h", "e", "he", "\u2581he"])}, "merges": [
    "h e", "\u2581 he"], "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
META = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
REPLACE = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
WORDPIECE = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
             "vocab": {"[UNK]": 0, "he": 1, "##l": 2, "##lo": 3, ".": 4, "[CLS]": 5, "[SEP]": 6}}
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
UNIGRAM = {"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [
    ["<unk>", 0.0], ["\u2581", -2.0], ["h", -3.5], ["e", -3.0], ["he", -4.0], ["\u2581he", -3.25], ["l", -5], ["", 1e300]]}
# {"A": "bc"}: units of a trie of one letter, then the texts.
CHARSMAP = "GAQAAABBAAEACgAAAAAAAAA="
TOKENIZER |= {
    "llama": tokenizer("he \u2603\n\nhe".encode(), model=LLAMA, pre_tokenizer=None, normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"}, dict(REPLACE, pattern={"String": " "}, content="\u2581")]},
        decoder={"type": "Sequence", "decoders": [REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                  {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}),
    "metaspace": tokenizer(b"he  he", model=LLAMA, pre_tokenizer=META, decoder=META),
    "wordpiece": tokenizer("Hello. \u00e9\u6f22".encode(), model=WORDPIECE, normalizer=BERT, pre_tokenizer={"type": "BertPreTokenizer"},
                           decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
                           post_processor={"type": "BertProcessing", "sep": ["[SEP]", 6], "cls": ["[CLS]", 5]}),
    "unigram": tokenizer(b"hello he", model=UNIGRAM, pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, dict(META, prepend_scheme="always")]}, decoder=META, normalizer={
            "type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
    "edits": tokenizer(b" ..he. he", model=UNIGRAM, pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Whitespace"}]},
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "StripAccents"}, {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": "h+"}, "content": "h"}]},
        decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "[a-e]"}, "content": ""},
                                                  {"type": "Replace", "pattern": {"String": "hh"}, "content": "hhh"}]}),
}

for target, seeds in [("safetensors", SAFETENSORS), ("tokenizer", TOKENIZER)]:
    os.makedirs(os.path.join(sys.argv[1], target), exist_ok=True)
    for name, data in seeds.items():
        with open(os.path.join(sys.argv[1], target, name), "wb") as f:
            f.write(data)
