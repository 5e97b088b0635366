#!/bin/sh
# Builds the fuzzers with clang 14, AddressSanitizer and UndefinedBehaviorSanitizer: ./build.sh OUT_DIR [TARGET...]
set -eu
out=$1
shift
targets=${*:-safetensors tokenizer config plan torch_file}
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out"
flags="-std=c++20 -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -I$root"
objects=""
for source in "$root"/ir/*.cpp "$root"/ir/ops/*.cpp "$root"/runtime/checkpoint/*.cpp "$root"/runtime/plan/*.cpp \
  "$root"/runtime/engine/tokenizer*.cpp "$root"/frontends/*.cpp "$root"/frontends/hf/*.cpp \
  "$root"/frontends/hf/families/*.cpp "$root"/frontends/deepspeed/*.cpp; do
  object=$out/$(echo "${source#"$root"/}" | tr / _ | sed 's/cpp$/o/')
  if [ ! "$object" -nt "$source" ]; then clang++-14 $flags -c "$source" -o "$object"; fi
  objects="$objects $object"
done
for target in $targets; do
  clang++-14 $flags -fsanitize=fuzzer "$root/tests/fuzz/fuzz_$target.cpp" $objects -lfmt -lpcre2-8 -lutf8proc \
    -o "$out/fuzz_$target"
  mkdir -p "$out/corpus_$target"
  cp "$root/tests/data/fuzz/$target"/* "$out/corpus_$target"/
done
