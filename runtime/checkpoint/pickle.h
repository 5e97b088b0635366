// Python pickles, read as data: an interpreter that builds containers and numbers and calls
// nothing.
//
// A global ("os.system") becomes a node that holds its name; calling one (REDUCE, NEWOBJ, OBJ)
// becomes a node that holds the name and the arguments. What a reader does with such a node is its
// own affair; nothing is imported, looked up or run. The only call with a meaning here is
// collections.OrderedDict, an ordinary dict.
//
// Protocols 2 to 5, without out-of-band buffers and extension codes. Bounded: pickle size, number
// of nodes, nesting; the stack and the memo cannot exceed the number of opcodes. No recursion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

struct PickleNode {
  enum class Kind : uint8_t {
    none,
    boolean,      // integer
    integer,      // integer
    big_integer,  // does not fit 64 bits: no value
    real,         // real
    text,         // text: UTF-8, not checked
    bytes,        // text
    list,         // items
    tuple,        // items
    set,          // items
    dict,         // items: key, value, key, value ...
    global,       // text: "module.name"
    object,       // items: callable, arguments (a tuple node); state and contents are dropped
    persistent,   // items: the persistent id
  };
  Kind kind = Kind::none;
  int64_t integer = 0;
  double real = 0;
  std::string_view text;        // points into the pickle's bytes or Pickle::names_
  std::vector<uint32_t> items;  // indices into Pickle::nodes
};

struct PickleLimits {
  int64_t max_bytes = 256 << 20;
  int64_t max_nodes = 16'000'000;
  int max_depth = 200;
};

/// A whole pickle as a graph of nodes. It may have cycles and shared parts: walkers need bounds of
/// their own.
class Pickle {
 public:
  using Kind = PickleNode::Kind;

  /// `bytes` must outlive the Pickle. `file` names the file in errors (UserError).
  static Pickle parse(std::span<const std::byte> bytes, const std::string& file,
                      const PickleLimits& limits = {});

  const PickleNode& root() const { return nodes_[root_]; }
  /// Number of nodes.
  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }
  uint32_t root_index() const { return root_; }
  const PickleNode& node(uint32_t index) const { return nodes_[index]; }
  const PickleNode& item(const PickleNode& parent, size_t i) const {
    return nodes_[parent.items[i]];
  }
  /// The name "module.name" that a node of kind global or object depends on; empty for others.
  std::string dependency(const PickleNode& node) const;

 private:
  friend class PickleMachine;
  std::vector<PickleNode> nodes_;
  std::deque<std::string> names_;  // of globals
  uint32_t root_ = 0;
};

}  // namespace shunt
