"""Writes bases.json (small tokenizers of other kinds than base.json), cases_llama.json, cases_wordpiece.json and
cases_unigram.json (variants of them, with what the reference library says), and unicode.json (its classes of characters).

Run with `pip install tokenizers==0.22.1 sentencepiece`: python generate_kinds.py (after generate.py, whose texts it uses).
"""
import base64
import io
import itertools
import json
import os
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from generate import HERE, TEXTS, patched, random_texts, sequence, small_case, split, template, write

STORY = os.path.join(HERE, "../storyteller/heldout.txt")
BYTES = [f"<0x{b:02X}>" for b in range(256)]
MORE = [
    "▁already▁meta ▁ text", "\ufffd replaced \ufffd", "I do not know, don't I 'm n't . ? ! , it 's we 've they 're", "##ing walking ing##",
    "A\u0300\u0316 İstanbul ẞ ΑΣ ǅungla ﷺ", "x\u0061\u0315\u0300\u05ae\u0300\u0062", "half\u1734mark \u166d \u2e52 \u0898",
    "漢字and漢字 \U0002b820\U00020000", "\r\n\r\n a\r\nb", "\tTab first", "  \u3000 wide", "<0x0A><0xE2> bytes", "☃☃ ☃ 𝔘𝔫𝔦", "ⅷ ① ㍿ ｶﾞ",
    "supercalifragilisticexpialidocious" * 4, "word" * 30, "[CLS] a [MASK]b [SEP]", "<extra>  <extra>x<extra> <EXTRA> <e>", "  leading", "trailing  ",
    "क्षि ก็ 각", "👩‍👩‍👧‍👦👍🏽 🇩🇪", "a\u200db\u200cc\u00add\ufeffe",
]
ALL = TEXTS + MORE


def story(size):
    return open(STORY, encoding="utf-8").read()[:size].split("\n")


def llama_base():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"] + BYTES, show_progress=False)
    tokenizer.train_from_iterator(story(60000) + ["héé Éa"] * 50, trainer)
    base = json.loads(tokenizer.to_str())
    base["added_tokens"] = base["added_tokens"][:3]
    base["pre_tokenizer"] = None
    base["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")]}
    base["decoder"] = decoders(replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, strip(" ", 1, 0))
    base["post_processor"] = template("<s>", "$A", ids={"<s>": 1})
    return base


def wordpiece_base():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                                        show_progress=False)
    tokenizer.train_from_iterator(story(60000) + ["it's n't é ï 漢 Ab"] * 20, trainer)
    base = json.loads(tokenizer.to_str())
    base["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    base["post_processor"] = template("[CLS]", "$A", "[SEP]", ids={"[CLS]": 2, "[SEP]": 3})
    return base


def unigram_base():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>",
                                      show_progress=False)
    tokenizer.train_from_iterator(story(60000) + ["héé Éa — naïve"] * 20, trainer)
    base = json.loads(tokenizer.to_str())
    base["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap()}
    base["decoder"] = metaspace()
    base["post_processor"] = template("$A", "</s>", ids={"</s>": 1})
    return base


RULES = [("A\u030a", "Å"), ("e\u0301", "é"), ("ﬁ", "fi"), ("\u3000", " "), ("\t", " "), ("\n", " "), ("\r", " "), ("\u200b", ""),
         ("\u00ad", ""), ("\ufeff", ""), ("²", "2"), ("½", "1⁄2"), ("Ⅷ", "VIII"), ("①", "1"), ("㍿", "株式会社"), ("ﷺ", "صلى الله عليه وسلم"),
         ("ｶ", "カ"), ("ｶﾞ", "ガ"), ("\u00a0", " "), ("\x00", ""), ("…", "..."), ("\u1100\u1161\u11a8", "각"), ("\u1100\u1161", "가")]
RULES += [(chr(0xff01 + i), chr(0x21 + i)) for i in range(94)]


def charsmap():
    """A table of replacements as SentencePiece compiles them."""
    rules = "".join(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in RULES if "\0" not in a)
    path = "/tmp/rules.tsv"
    open(path, "w").write(rules)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(story(20000)), model_writer=model, vocab_size=200,
                                             normalization_rule_tsv=path, minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def strip(content, start, stop):
    return {"type": "Strip", "content": content, "start": start, "stop": stop}


def decoders(*parts):
    return {"type": "Sequence", "decoders": list(parts)}


def normal(*parts):
    return {"type": "Sequence", "normalizers": list(parts)}


def metaspace(scheme="always", split=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def flagged_tokens(base):
    """The base's tokens and some with flags; two of them have no token of the vocabulary."""
    vocab = base["model"]["vocab"]
    names = [t for t, _ in vocab] if isinstance(vocab, list) else vocab
    tokens = list(base["added_tokens"])
    ids = itertools.count(len(vocab))

    def add(content, special=True, **flags):
        plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
        found = vocab[content] if isinstance(vocab, dict) and content in vocab else None
        tokens.append({"content": content, "id": next(ids) if found is None else found, "special": special, **plain, **flags})
        assert found is not None or content not in names

    add("<extra>", lstrip=True)
    add("<e>", rstrip=True, normalized=True, special=False)
    add("<X>", lstrip=True, rstrip=True, normalized=True, special=False)
    add("☃", special=False)
    return tokens


def llama_variants(base):
    yield "llama 2", {}
    yield "with more added tokens", {"added_tokens": flagged_tokens(base)}
    for scheme in ["always", "first", "never"]:
        for cut in [True, False]:
            yield f"metaspace {scheme} {cut}", {
                "normalizer": None, "pre_tokenizer": metaspace(scheme, cut), "decoder": metaspace(scheme, cut),
                "added_tokens": flagged_tokens(base)}
    yield "metaspace of 2020", {"normalizer": None, "decoder": metaspace(),
                                "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}}
    yield "metaspace after a strip", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False},
                                      "pre_tokenizer": metaspace("first"), "added_tokens": flagged_tokens(base)}
    yield "metaspace after a replacement", {"normalizer": normal(replace(r"^\s+", "", "Regex"), replace("..", "▁")),
                                            "pre_tokenizer": metaspace("first", False)}
    yield "metaspace after a split", {"normalizer": None, "pre_tokenizer": sequence(split(r"\s+", "Removed"), metaspace("first"))}
    yield "gemma", {"normalizer": replace(" ", "▁"), "pre_tokenizer": split(" ", "MergedWithPrevious", kind="String"),
                    "model.ignore_merges": True, "decoder": decoders(replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"})}
    yield "no byte fallback", {"model.byte_fallback": False}
    yield "no fusion", {"model.byte_fallback": False, "model.fuse_unk": False}
    vocab = {k: v for k, v in base["model"]["vocab"].items() if k not in ("<0x97>", "<0xF0>", "<0xCC>")}
    for fuse in [True, False]:
        yield f"some bytes only, fuse {fuse}", {"model.vocab": vocab, "model.fuse_unk": fuse}
    yield "bytes, then metaspace", {"normalizer": None, "pre_tokenizer": metaspace(),
                                    "decoder": decoders({"type": "ByteFallback"}, metaspace())}
    yield "fused, then edited", {"decoder": decoders(
        {"type": "ByteFallback"}, {"type": "Fuse"}, replace("▁", " "), replace("aba", "<aba>"), replace(" th", "+TH"),
        strip(" ", 2, 3), strip(".", 0, 1))}
    yield "edited by patterns", {"decoder": decoders(replace(r"▁+", "_", "Regex"), {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     replace(r"(?<=[aeiou])\w", "*", "Regex"))}
    yield "edited token by token", {"decoder": decoders(replace("▁t", "T"), strip("▁", 1, 0))}
    yield "bytes of fused text", {"decoder": decoders({"type": "Fuse"}, {"type": "ByteFallback"})}


def wordpiece_variants(base):
    def bert(clean=True, ideographs=True, accents=None, lower=True):
        return {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": ideographs, "strip_accents": accents,
                "lowercase": lower}

    yield "bert uncased", {}
    yield "bert cased", {"normalizer": bert(lower=False)}
    yield "accents stay", {"normalizer": bert(accents=False)}
    yield "accents go", {"normalizer": bert(accents=True, lower=False, clean=False)}
    yield "ideographs stay", {"normalizer": bert(ideographs=False), "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False}}
    yield "bert processing", {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}}
    yield "roberta processing", {"post_processor": {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2],
                                                    "trim_offsets": True, "add_prefix_space": False}}
    yield "short words only", {"model.max_input_chars_per_word": 5}
    yield "another prefix", {"model.continuing_subword_prefix": "", "decoder": {"type": "WordPiece", "prefix": "", "cleanup": True}}
    yield "added tokens", {"added_tokens": flagged_tokens(base)}
    yield "no normalizer", {"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}}
    yield "white space", {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        yield f"punctuation {behavior}", {"pre_tokenizer": sequence({"type": "WhitespaceSplit"},
                                                                    {"type": "Punctuation", "behavior": behavior})}
    for left, right in [(True, True), (False, True)]:
        yield f"strip {left} {right}", {"normalizer": normal({"type": "Strip", "strip_left": left, "strip_right": right},
                                                             {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
                                        "pre_tokenizer": split(" ", "MergedWithNext", kind="String")}
    yield "replaced", {"normalizer": normal(replace("``", '"'), replace(r"[aeiou]+", "o", "Regex"), {"type": "Prepend", "prepend": "a b"})}


def unigram_variants(base):
    yield "unigram", {}
    yield "t5", {"pre_tokenizer": sequence({"type": "WhitespaceSplit"}, metaspace())}
    yield "first", {"pre_tokenizer": metaspace("first"), "decoder": metaspace("first"), "added_tokens": flagged_tokens(base)}
    yield "no split", {"pre_tokenizer": metaspace(split=False)}
    yield "no normalizer", {"normalizer": None, "pre_tokenizer": None}
    yield "xlnet", {"normalizer": normal(replace("``", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                                         base["normalizer"], replace(" {2,}", " ", "Regex"))}
    vocab = base["model"]["vocab"] + [[b, -20.0] for b in BYTES]
    fallback = {"model.vocab": vocab, "model.byte_fallback": True, "decoder": decoders({"type": "ByteFallback"}, metaspace())}
    yield "byte fallback", fallback
    yield "byte fallback, no normalizer", {**fallback, "normalizer": None}
    yield "byte fallback, some bytes", {**fallback, "model.vocab": vocab[:-100], "normalizer": None}
    # Ties, negative and positive scores, one token twice, and an empty one.
    vocab = [["<unk>", 0.0], ["a", -1.0], ["b", -1.0], ["aa", -2.0], ["ab", -2.0], ["ba", -2.0], ["aab", -3.0], ["▁", 0.5], ["", 1.0],
             ["b", -1.5], ["e", -4.0], ["éé", 3.0], ["oo", -30.0]]
    yield "ties", {"model.vocab": vocab, "model.unk_id": 0, "normalizer": None, "post_processor": None, "added_tokens": []}


def cases_of(tokenizer, texts):
    for text in texts:
        try:
            yield small_case(tokenizer, text)
        except BaseException as e:  # the decoder Strip panics on a token that is shorter than what it may take off
            assert "index" in str(e), e


def decode_cases(tokenizer, count):
    """Ids in any order: runs of bytes that are no text, spaces in the wrong places, special tokens in the middle."""
    rng = random.Random(5)
    size = tokenizer.get_vocab_size()
    cases = []
    for _ in range(count):
        ids = []
        while len(ids) < rng.randint(1, 20):
            ids += rng.choice([[rng.randrange(size)], [rng.randrange(min(size, 300))], tokenizer.encode("☃é", add_special_tokens=False).ids])
        cases.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False), "skipped": tokenizer.decode(ids)})
    return cases


def unicode_classes():
    """[first, last] of each run of characters, by what the library does with each one between two letters."""
    codes = [c for c in range(1, 0x110000) if not 0xd800 <= c < 0xe000]
    bert = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    accents = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    removes = lambda normalizer: lambda c: normalizer.normalize_str(f"a{chr(c)}b") == "ab"
    splits = lambda cutter, n: lambda c: len(cutter.pre_tokenize_str(f"a{chr(c)}b")) == n
    classes = {"white_space": splits(pre_tokenizers.WhitespaceSplit(), 2), "punctuation": splits(pre_tokenizers.BertPreTokenizer(), 3),
               "other": removes(bert), "nonspacing_mark": removes(accents), "combining_mark": removes(normalizers.StripAccents())}
    out = {}
    for name, has in classes.items():
        runs = out[name] = []
        for c in filter(has, codes):
            if runs and runs[-1][1] == c - 1:
                runs[-1][1] = c
            else:
                runs.append([c, c])
    return out


def main():
    write("unicode.json", unicode_classes())
    bases = {"llama": llama_base(), "wordpiece": wordpiece_base(), "unigram": unigram_base()}
    write("bases.json", bases)
    for name, variants in [("llama", llama_variants), ("wordpiece", wordpiece_variants), ("unigram", unigram_variants)]:
        out = []
        for variant, patch in variants(bases[name]):
            texts = ALL + random_texts(8) if not patch else random.Random(variant).sample(ALL, 14) + random_texts(3)
            tokenizer = Tokenizer.from_str(json.dumps(patched(bases[name], patch)))
            out.append({"name": variant, "base": name, "patch": patch, "decodes": decode_cases(tokenizer, 6),
                        "cases": list(cases_of(tokenizer, texts))})
        write(f"cases_{name}.json", out)


if __name__ == "__main__":
    main()
