"""Writes base.json (a small byte-level BPE) and cases_*.json (variants of it, with what the reference library says).

Run with `pip install tokenizers` (0.22.1 was used; 0.23 decodes a normalized added token to its normal form, which
then counts as not special): python generate.py ../../../README.md some_text.txt ...
A case file holds patches: keys of tokenizer.json that replace those of base.json ("model.x" replaces within model).
"""
import copy
import json
import os
import random
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
             r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")

TEXTS = [
    "", " ", "a", "\n", "Hello, world!", "  two  spaces   three ", "don't WON'T I'LL we've 'Tis o'clock x'S 'ſ",
    "tabs\t\tand\r\nlines\n\n\n  indented\n \n", "1 12 123 1234 12345 3.14159 1,000,000 2024-01-02",
    "Ünïcödé — naïve café", "e\u0301 vs é, A\u030a vs Å, \u1100\u1161\u11a8 vs 각, ﬁ ligature, ² ³ ½ Ⅷ",
    "日本語のテキスト、漢字かなカナ。中文字符 한국어 텍스트", "العربية ٣٤٥ עברית हिन्दी १२३ ไทย",
    "🙂👍🏽👩‍👩‍👧‍👦 🇩🇪 ☃ ∑∫√", "nbsp\u00a0thin\u2009ideographic\u3000nel\u0085mvs\u180ezwsp\u200bls\u2028ps\u2029",
    "\x00\x01\x1c\x1d\x1e\x1f\x0b\x0c\x7f", "https://example.com/a?b=c&d=%20#frag <b>html</b> {\"json\": [1, 2]}",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "CamelCaseWords and snake_case_words ALLCAPS",
    "...!!!??? --- *** ((())) [[[]]]", "x" * 60, " " * 70 + "y", "ab" * 40, "\n" * 20, "Ⓐⓑ ª º ǅ ʰ \u0345",
    "<s>Once</s> upon <mask> a <s> time</s>  <mask>  <X><XY><XYZ>", "word<w>word <w> <w>. (<w>) é<w> <w>é _<w> <w>² ²<w> <w>ⓐ <w>\u200d",
    "  <l>  <r>  <lr>  <l><r><lr>\n<l>\t<r>\u3000<lr>\u00a0", "ＦＵＬＬ　ｗｉｄｔｈ <ＡＢ> <AB> ﬀ", "<think>plan</think>\n\nSure!",
    "<|begin_of_text|>raw<|eot|>", "It was the best of times, it was the worst of times, it was the age of wisdom.",
]


def random_texts(count):
    rng = random.Random(7)
    alphabet = list("aabcdeèé stT'sSrRd019 .,-\n\r\t") + ["  ", "'s", "'LL", "\u0301", "\u00a0", "日", "か", "ア", "ß", "İ",
                                                         "<X>", "<l>", "<r>", "<w>", "<mask>", "🙂", "²", "٣", "ǅ", "ʰ"]
    return ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def train(files):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    texts = [open(name, encoding="utf-8").read()[:60000] for name in files] + TEXTS * 3
    tokenizer.train_from_iterator(texts, trainer)
    base = json.loads(tokenizer.to_str())
    # Tokens that no merges lead to: only ignore_merges finds them.
    for word in ["ĠHello", "world", "éé", "ĠCase", "12345"]:
        mapped = word
        base["model"]["vocab"].setdefault(mapped, len(base["model"]["vocab"]))
    return base


def added(content, base, extra, **flags):
    entry = dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    entry.update(flags)
    vocab = base["model"]["vocab"]
    entry["id"] = vocab.get(content, len(vocab) + len(extra))
    extra.append(entry)


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def template(*names, ids):
    pieces = [{"Sequence": {"id": "A", "type_id": 0}} if n == "$A" else {"SpecialToken": {"id": n, "type_id": 0}}
              for n in names]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in names if n != "$A"}}


def variants(base):
    yield "gpt2", {}
    yield "gpt2 prefix space", {"pre_tokenizer": byte_level(prefix=True, regex=True)}
    yield "no split at all", {"pre_tokenizer": byte_level()}

    specials = []
    for name in ["<|begin_of_text|>", "<|end_of_text|>", "<|eot|>"]:
        added(name, base, specials)
    ids = {e["content"]: e["id"] for e in specials}
    yield "llama3", {
        "added_tokens": specials, "model.ignore_merges": True, "pre_tokenizer": sequence(split(LLAMA3), byte_level()),
        "post_processor": {"type": "Sequence", "processors": [byte_level(True, True),
                                                              template("<|begin_of_text|>", "$A", ids=ids)]}}
    yield "template on both sides", {
        "added_tokens": specials, "post_processor": template("<|begin_of_text|>", "$A", "<|end_of_text|>", ids=ids)}

    tags = []
    added("<|im_start|>", base, tags)
    added("<think>", base, tags, special=False)
    added("</think>", base, tags, special=False, normalized=True)
    merges = [" ".join(m) for m in base["model"]["merges"]]
    yield "qwen, merges as strings", {
        "added_tokens": tags, "model.merges": merges, "normalizer": {"type": "NFC"},
        "pre_tokenizer": sequence(split(QWEN), byte_level()), "post_processor": byte_level()}
    yield "o200k", {"pre_tokenizer": sequence(split(O200K), byte_level())}
    yield "deepseek3", {"pre_tokenizer": sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3),
                                                  byte_level())}
    digits = lambda each: {"type": "Digits", "individual_digits": each}
    yield "digits", {"pre_tokenizer": sequence(digits(True), byte_level(regex=True))}
    yield "digit runs", {"pre_tokenizer": sequence(digits(False), byte_level(True, True))}

    flagged = []
    added("<s>", base, flagged)
    added("</s>", base, flagged, rstrip=True)
    added("<mask>", base, flagged, lstrip=True)
    added("<l>", base, flagged, lstrip=True, normalized=True, special=False)
    added("<r>", base, flagged, rstrip=True)
    added("<lr>", base, flagged, lstrip=True, rstrip=True, special=False)
    added("<w>", base, flagged, single_word=True)
    added("word", base, flagged, single_word=True, special=False, normalized=True)
    added("<X>", base, flagged)
    added("<X><XY", base, flagged)
    added("<XYZ>", base, flagged, normalized=True)
    added("<ＡＢ>", base, flagged, normalized=True)
    added("éé", base, flagged, special=False)
    for form in [None, "NFC", "NFD", "NFKC", "NFKD"]:
        yield f"added tokens, {form}", {"added_tokens": flagged, "normalizer": form and {"type": form}}
    yield "normalizers in sequence", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "NFC"}]},
                                      "pre_tokenizer": byte_level(True, True), "added_tokens": flagged}

    for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            yield f"split {behavior} {invert}", {
                "pre_tokenizer": sequence(split(r"\w+|[^\w\s]{2,}", behavior, invert), byte_level())}
        yield f"split string {behavior}", {"pre_tokenizer": sequence(split(".", behavior, kind="String"), byte_level())}
    for pattern in [r"\p{N}{2,3}+|\S{2}", r"\s*", r"(?i)\x41|b\u00e9|[\v\t ]+$", r"\p{Han}|\p{^L}|^\W+", r"(?<=\d)\D|(?>a+)b?+"]:
        yield "pattern " + pattern, {"pre_tokenizer": sequence(split(pattern), byte_level())}

    vocab = {k: v for k, v in base["model"]["vocab"].items()}
    unk = []
    added("<unk>", base, unk)
    vocab["<unk>"] = len(vocab)
    for fuse in [False, True]:
        yield f"unknown characters, fuse {fuse}", {
            "added_tokens": unk, "model.vocab": vocab, "model.unk_token": "<unk>", "model.fuse_unk": fuse,
            "pre_tokenizer": split(r"\s+", "MergedWithNext")}


def patched(base, patch):
    tree = copy.deepcopy(base)
    for key, value in patch.items():
        if key.startswith("model."):
            tree["model"][key[6:]] = value
        else:
            tree[key] = value
    return tree


def small_case(tokenizer, text):
    """Equal entries are left out: plain = ids, decoded = text, skipped = decoded where they are missing."""
    ids = tokenizer.encode(text).ids
    case = {"text": text, "ids": ids}
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    skipped = tokenizer.decode(ids)
    if plain != ids:
        case["plain"] = plain
    if decoded != text:
        case["decoded"] = decoded
    if skipped != decoded:
        case["skipped"] = skipped
    return case


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        f.write(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def main():
    base = train(sys.argv[1:])
    out = []
    for name, patch in variants(base):
        tokenizer = Tokenizer.from_str(json.dumps(patched(base, patch)))
        small = [small_case(tokenizer, text) for text in TEXTS + random_texts(8)]
        out.append({"name": name, "patch": patch, "cases": small})
    write("base.json", base)
    half = (len(out) + 1) // 2
    write("cases_1.json", out[:half])
    write("cases_2.json", out[half:])


if __name__ == "__main__":
    main()
