#!/bin/sh
# Builds the fuzzers with clang 14, AddressSanitizer and UndefinedBehaviorSanitizer: ./build.sh OUT_DIR
set -eu
out=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out"
flags="-std=c++20 -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -I$root"
objects=""
# clang 14 has no _Float16 on x86, which types.cpp needs: the base is built by g++, without instrumentation.
for source in "$root"/ir/types.cpp "$root"/ir/dim.cpp; do
  object=$out/$(basename "$source" .cpp).o
  if [ ! "$object" -nt "$source" ]; then g++ -std=c++20 -O1 -I"$root" -c "$source" -o "$object"; fi
  objects="$objects $object"
done
for source in "$root"/runtime/checkpoint/*.cpp "$root"/runtime/engine/tokenizer*.cpp; do
  object=$out/$(echo "${source#"$root"/}" | tr / _ | sed 's/cpp$/o/')
  if [ ! "$object" -nt "$source" ]; then clang++-14 $flags -c "$source" -o "$object"; fi
  objects="$objects $object"
done
for target in safetensors tokenizer; do
  clang++-14 $flags -fsanitize=fuzzer "$root/tests/fuzz/fuzz_$target.cpp" $objects -lfmt -lpcre2-8 -lutf8proc \
    -o "$out/fuzz_$target"
  mkdir -p "$out/corpus_$target"
  cp "$root/tests/data/fuzz/$target"/* "$out/corpus_$target"/
done
