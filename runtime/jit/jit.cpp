// Keys, the cache and the threads around NVRTC. Entry point: compile_all. Covered by
// tests/runtime/jit/jit_test.cpp.
#include "runtime/jit/jit.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <map>
#include <thread>

#include "ir/error.h"
#include "runtime/checkpoint/digest.h"
#include "runtime/jit/cache.h"
#include "runtime/jit/nvrtc.h"

namespace shunt {

namespace {

/// Names in `#include "..."` lines of a text, in order.
std::vector<std::string> included_names(std::string_view text) {
  std::vector<std::string> names;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.starts_with("#")) continue;
    line.remove_prefix(1);
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    if (!line.starts_with("include")) continue;
    const size_t open = line.find('"');
    const size_t close = open == line.npos ? line.npos : line.find('"', open + 1);
    if (close != line.npos) names.emplace_back(line.substr(open + 1, close - open - 1));
  }
  return names;
}

/// Every header a source reaches, sorted by name.
std::vector<jit::Header> reached_headers(const JitSource& source,
                                         std::span<const EmbeddedHeader> all) {
  std::map<std::string, std::string_view> reached;
  std::vector<std::pair<std::string, std::string>> waiting;  // name, who includes it
  for (std::string& name : included_names(source.text))
    waiting.emplace_back(std::move(name), source.name);
  while (!waiting.empty()) {
    const std::string name = std::move(waiting.back().first);
    const std::string by = std::move(waiting.back().second);
    waiting.pop_back();
    if (reached.contains(name)) continue;
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const EmbeddedHeader& h) { return h.name == name; });
    if (found == all.end()) {
      user_error("kernel {}: header \"{}\", included by {}, does not exist", source.name, name, by);
    }
    reached.emplace(name, found->text);
    for (std::string& next : included_names(found->text))
      waiting.emplace_back(std::move(next), name);
  }
  std::vector<jit::Header> headers;
  for (const auto& [name, text] : reached) headers.push_back({name, std::string(text)});
  return headers;
}

std::string key_of(const JitSource& source, std::span<const jit::Header> headers,
                   const std::string& target) {
  Sha256 hash;
  const auto add = [&](std::string_view text) {  // with its length, so that no two lists hash alike
    hash.update(std::to_string(text.size()) + ":");
    hash.update(text);
  };
  add(jit::compiler_version());
  for (const std::string& option : jit::compiler_options(target)) add(option);
  add(source.text);
  for (const jit::Header& header : headers) {
    add(header.name);
    add(header.text);
  }
  return hash.finish_hex();
}

JitResult compile_one(const JitSource& source, const JitOptions& options, const jit::Cache& cache) {
  const std::vector<jit::Header> headers = reached_headers(source, options.headers);
  JitResult result;
  result.digest = key_of(source, headers, options.target);
  jit::Entry entry;
  if (auto found = cache.find(result.digest)) {
    entry = std::move(*found);
    result.from_cache = true;
  } else {
    if (!options.allow_compile) {
      user_error(
          "kernel {} ({}) is not in the cache {}, and nothing may be compiled now: compile the "
          "plan first",
          source.name, result.digest, options.cache_dir.string());
    }
    const auto start = std::chrono::steady_clock::now();
    jit::Compiled compiled =
        jit::compile(source.name, source.text, headers, jit::compiler_options(options.target));
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!compiled.ok) {
      const auto kept = cache.keep_failed(source.name, source.text);
      user_error("kernel {} does not compile for {} (source kept in {}):\n{}", source.name,
                 options.target, kept.string(), compiled.log);
    }
    entry = {source.text, std::move(compiled.cubin), jit::parse_resources(compiled.log)};
    cache.insert(result.digest, entry);
  }
  result.source = std::move(entry.source);
  result.cubin = std::move(entry.cubin);
  result.registers = entry.resources.registers;
  result.spill_bytes = entry.resources.spill_bytes;
  result.stack_bytes = entry.resources.stack_bytes;
  result.smem_bytes = entry.resources.smem_bytes;
  return result;
}

}  // namespace

std::vector<JitResult> compile_all(std::span<const JitSource> sources, const JitOptions& options) {
  const jit::Cache cache(options.cache_dir, options.allow_compile);
  std::map<std::string_view, size_t> first;  // text -> the first source with it
  std::vector<size_t> distinct;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (first.emplace(sources[i].text, i).second) distinct.push_back(i);
  }

  std::vector<JitResult> results(sources.size());
  std::vector<std::exception_ptr> errors(sources.size());
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  const auto work = [&] {
    for (size_t n = next++; n < distinct.size() && !failed; n = next++) {
      const size_t i = distinct[n];
      try {
        results[i] = compile_one(sources[i], options, cache);
      } catch (...) {
        errors[i] = std::current_exception();
        failed = true;
      }
    }
  };
  const size_t threads =
      std::min(distinct.size(), static_cast<size_t>(std::max(1, options.threads)));
  std::vector<std::thread> pool;
  for (size_t t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    if (const size_t same = first.at(sources[i].text); same != i) results[i] = results[same];
  }
  return results;
}

std::string jit_digest(const JitSource& source, const JitOptions& options) {
  return key_of(source, reached_headers(source, options.headers), options.target);
}

}  // namespace shunt
