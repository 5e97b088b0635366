// The pickle interpreter. Entry point: Pickle::parse(). Tested by
// tests/runtime/checkpoint/torch_file_test.cpp and tests/fuzz/fuzz_torch_file.cpp.
#include "runtime/checkpoint/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "ir/error.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt {

namespace {

using Kind = PickleNode::Kind;

/// Opcodes of protocols 2 to 5 that are read, by their names in Python's pickletools.
enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kDict = 'd',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kList = 'l',
  kObj = 'o',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyDict = '}',
  kEmptyList = ']',
  kEmptyTuple = ')',
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kNewObjEx = 0x92,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
  kByteArray8 = 0x96,
};

constexpr std::string_view kBroken = "the file is broken: copy or save it again";

}  // namespace

/// The machine's state: stack, marks and memo hold indices of nodes.
class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, const std::string& file,
                const PickleLimits& limits)
      : bytes_(bytes), file_(file), limits_(limits) {}

  Pickle run() {
    if (static_cast<int64_t>(bytes_.size()) > limits_.max_bytes) {
      user_error("{}: pickle of {} bytes, more than {}", file_, bytes_.size(), limits_.max_bytes);
    }
    while (step()) {
    }
    out_.root_ = pop();
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    user_error("{}: pickle, byte {}: {}; {}", file_, op_at_, what, kBroken);
  }

  // ---- input ----

  std::string_view take(uint64_t n) {
    if (n > bytes_.size() - at_) fail("ends in the middle of an instruction");
    const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    at_ += static_cast<size_t>(n);
    return {begin, static_cast<size_t>(n)};
  }
  uint64_t number(int width) {
    const std::string_view raw = take(static_cast<uint64_t>(width));
    uint64_t n = 0;
    for (int i = 0; i < width; ++i) {
      n |= static_cast<uint64_t>(static_cast<uint8_t>(raw[static_cast<size_t>(i)])) << (8 * i);
    }
    return n;
  }
  std::string_view line() {
    const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    const void* end = std::memchr(begin, '\n', bytes_.size() - at_);
    if (end == nullptr) fail("ends in the middle of a name");
    const auto n = static_cast<size_t>(static_cast<const char*>(end) - begin);
    at_ += n + 1;
    return {begin, n};
  }

  // ---- nodes and stack ----

  void push_index(uint32_t i) {
    if (static_cast<int64_t>(stack_.size()) >= limits_.max_nodes) fail("its stack is too large");
    stack_.push_back(i);
  }
  PickleNode& node(uint32_t i) { return out_.nodes_[i]; }

  uint32_t make(PickleNode n, int depth = 1) {
    items_ += static_cast<int64_t>(n.items.size());
    if (out_.size() >= limits_.max_nodes || items_ > 4 * limits_.max_nodes) {
      fail(fmt::format("more than {} values", limits_.max_nodes));
    }
    for (const uint32_t child : n.items) depth = std::max(depth, depth_[child] + 1);
    check_depth(depth);
    out_.nodes_.push_back(std::move(n));
    depth_.push_back(depth);
    return static_cast<uint32_t>(out_.nodes_.size() - 1);
  }
  void check_depth(int64_t depth) const {
    if (depth > limits_.max_depth) fail(fmt::format("nests deeper than {}", limits_.max_depth));
  }
  void push(PickleNode n) { push_index(make(std::move(n))); }
  void push_kind(Kind kind) {
    PickleNode n;
    n.kind = kind;
    push(std::move(n));
  }
  void push_integer(Kind kind, int64_t value) {
    PickleNode n;
    n.kind = kind;
    n.integer = value;
    push(std::move(n));
  }
  void push_text(Kind kind, std::string_view text) {
    PickleNode n;
    n.kind = kind;
    n.text = text;
    push(std::move(n));
  }
  void push_items(Kind kind, std::vector<uint32_t> items) {
    PickleNode n;
    n.kind = kind;
    n.items = std::move(items);
    push(std::move(n));
  }

  /// Stack entries above the last mark.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  uint32_t pop() {
    if (stack_.size() <= floor()) fail("takes a value from an empty stack");
    const uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }
  std::vector<uint32_t> pop_n(size_t n) {
    if (stack_.size() - floor() < n) fail("takes a value from an empty stack");
    std::vector<uint32_t> items(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
    stack_.resize(stack_.size() - n);
    return items;
  }
  std::vector<uint32_t> pop_mark() {
    if (marks_.empty()) fail("needs a mark, and there is none");
    std::vector<uint32_t> items = pop_n(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }
  uint32_t top() const {
    if (stack_.size() <= floor()) fail("takes a value from an empty stack");
    return stack_.back();
  }

  // ---- instructions ----

  void global(std::string_view module, std::string_view name) {
    out_.names_.push_back(fmt::format("{}.{}", module, name));
    push_text(Kind::global, out_.names_.back());
  }

  void stack_global() {
    const std::vector<uint32_t> names = pop_n(2);
    if (node(names[0]).kind != Kind::text || node(names[1]).kind != Kind::text) {
      fail("a global's name is no text");
    }
    global(node(names[0]).text, node(names[1]).text);
  }

  /// A call becomes a record of it; collections.OrderedDict becomes a dict.
  void call(uint32_t callable, uint32_t arguments) {
    if (node(callable).kind == Kind::global && node(callable).text == "collections.OrderedDict") {
      if (auto pairs = ordered_dict_items(node(arguments))) {
        return push_items(Kind::dict, std::move(*pairs));
      }
    }
    push_items(Kind::object, {callable, arguments});
  }

  /// The items of OrderedDict() and OrderedDict([[key, value], ...]).
  std::optional<std::vector<uint32_t>> ordered_dict_items(const PickleNode& arguments) const {
    std::vector<uint32_t> items;
    if (arguments.kind != Kind::tuple) return std::nullopt;
    if (arguments.items.empty()) return items;
    const PickleNode& list = out_.nodes_[arguments.items[0]];
    if (arguments.items.size() != 1 || list.kind != Kind::list) return std::nullopt;
    for (const uint32_t i : list.items) {
      const PickleNode& pair = out_.nodes_[i];
      const bool good =
          (pair.kind == Kind::list || pair.kind == Kind::tuple) && pair.items.size() == 2;
      if (!good) return std::nullopt;
      items.insert(items.end(), pair.items.begin(), pair.items.end());
    }
    return items;
  }

  /// Adds items to the container on top of the stack. Those of a foreign object are dropped.
  void extend(Kind kind, const std::vector<uint32_t>& items) {
    const uint32_t target = top();
    const bool opaque = node(target).kind == Kind::object;
    if (!opaque && node(target).kind != kind) fail("adds items to something that holds none");
    if (kind == Kind::dict && items.size() % 2 != 0) fail("a key of a dict has no value");
    if (opaque) return;
    items_ += static_cast<int64_t>(items.size());
    for (const uint32_t i : items) {
      depth_[target] = std::max(depth_[target], depth_[i] + 1);
      node(target).items.push_back(i);
    }
    check_depth(depth_[target]);
  }

  void put(uint64_t key) {
    if (key > bytes_.size()) fail("memo index out of range");
    memo_[key] = top();
  }
  void get(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) fail("reads a memo entry that was never written");
    push_index(found->second);
  }

  void integer_bytes(uint64_t n) {
    const std::string_view raw = take(n);
    if (n > 8) return push_kind(Kind::big_integer);
    uint64_t value = n > 0 && (static_cast<uint8_t>(raw.back()) & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = raw.size(); i-- > 0;) {
      value = (value << 8) | static_cast<uint8_t>(raw[i]);
    }
    push_integer(Kind::integer, static_cast<int64_t>(value));
  }

  void binary_float() {
    const std::string_view raw = take(8);
    uint64_t bits = 0;
    for (const char c : raw) bits = (bits << 8) | static_cast<uint8_t>(c);
    PickleNode n;
    n.kind = Kind::real;
    n.real = std::bit_cast<double>(bits);
    push(std::move(n));
  }

  void protocol() {
    const uint64_t version = number(1);
    if (version < 2 || version > 5) fail(fmt::format("protocol {} is not read", version));
  }

  /// False at the end.
  bool step() {
    op_at_ = at_;
    const auto op = static_cast<uint8_t>(number(1));
    switch (op) {
      case kStop: return false;
      case kProto: protocol(); break;
      case kFrame: number(8); break;  // a hint for readers of streams
      case kMark:
        marks_.push_back(stack_.size());
        check_depth(static_cast<int64_t>(marks_.size()));
        break;
      case kPop:
        if (stack_.size() > floor()) {
          stack_.pop_back();
        } else {
          pop_mark();
        }
        break;
      case kPopMark: pop_mark(); break;
      case kDup: push_index(top()); break;
      case kBinPut: put(number(1)); break;
      case kLongBinPut: put(number(4)); break;
      case kMemoize: put(memo_.size()); break;
      case kBinGet: get(number(1)); break;
      case kLongBinGet: get(number(4)); break;
      default:
        if (!value(op) && !container(op)) fail(fmt::format("instruction 0x{:02x} is not read", op));
    }
    return true;
  }

  /// Instructions that push a number, a text or a name.
  bool value(uint8_t op) {
    switch (op) {
      case kNone: push_kind(Kind::none); break;
      case kNewTrue: push_integer(Kind::boolean, 1); break;
      case kNewFalse: push_integer(Kind::boolean, 0); break;
      case kBinInt: push_integer(Kind::integer, static_cast<int32_t>(number(4))); break;
      case kBinInt1: push_integer(Kind::integer, static_cast<int64_t>(number(1))); break;
      case kBinInt2: push_integer(Kind::integer, static_cast<int64_t>(number(2))); break;
      case kLong1: integer_bytes(number(1)); break;
      case kLong4: integer_bytes(number(4)); break;
      case kBinFloat: binary_float(); break;
      case kShortBinUnicode: push_text(Kind::text, take(number(1))); break;
      case kBinUnicode: push_text(Kind::text, take(number(4))); break;
      case kBinUnicode8: push_text(Kind::text, take(number(8))); break;
      case kShortBinString: push_text(Kind::text, take(number(1))); break;
      case kBinString: push_text(Kind::text, take(number(4))); break;
      case kShortBinBytes: push_text(Kind::bytes, take(number(1))); break;
      case kBinBytes: push_text(Kind::bytes, take(number(4))); break;
      case kBinBytes8:
      case kByteArray8: push_text(Kind::bytes, take(number(8))); break;
      case kGlobal: {
        const std::string_view module = line();
        global(module, line());
        break;
      }
      case kStackGlobal: stack_global(); break;
      default: return false;
    }
    return true;
  }

  /// Instructions that build containers and records of calls.
  bool container(uint8_t op) {
    switch (op) {
      case kEmptyList: push_items(Kind::list, {}); break;
      case kEmptyTuple: push_items(Kind::tuple, {}); break;
      case kEmptyDict: push_items(Kind::dict, {}); break;
      case kEmptySet: push_items(Kind::set, {}); break;
      case kList: push_items(Kind::list, pop_mark()); break;
      case kTuple: push_items(Kind::tuple, pop_mark()); break;
      case kTuple1: push_items(Kind::tuple, pop_n(1)); break;
      case kTuple2: push_items(Kind::tuple, pop_n(2)); break;
      case kTuple3: push_items(Kind::tuple, pop_n(3)); break;
      case kFrozenSet: push_items(Kind::set, pop_mark()); break;
      case kDict: {
        std::vector<uint32_t> items = pop_mark();
        if (items.size() % 2 != 0) fail("a key of a dict has no value");
        push_items(Kind::dict, std::move(items));
        break;
      }
      case kAppend: extend(Kind::list, pop_n(1)); break;
      case kAppends: extend(Kind::list, pop_mark()); break;
      case kAddItems: extend(Kind::set, pop_mark()); break;
      case kSetItem: extend(Kind::dict, pop_n(2)); break;
      case kSetItems: extend(Kind::dict, pop_mark()); break;
      case kReduce:
      case kNewObj: {
        const std::vector<uint32_t> pair = pop_n(2);
        call(pair[0], pair[1]);
        break;
      }
      case kNewObjEx: {
        const std::vector<uint32_t> parts = pop_n(3);
        push_items(Kind::object, parts);
        break;
      }
      case kObj: {
        const std::vector<uint32_t> parts = pop_mark();
        if (parts.empty()) fail("an object has no class");
        push_items(Kind::object, {parts[0]});
        break;
      }
      case kBuild:  // the state of an object, or attributes of a dict: no reader needs them
        pop();
        top();
        break;
      case kBinPersId: push_items(Kind::persistent, pop_n(1)); break;
      default: return false;
    }
    return true;
  }

  std::span<const std::byte> bytes_;
  const std::string& file_;
  const PickleLimits& limits_;
  size_t at_ = 0, op_at_ = 0;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // sizes of the stack
  std::unordered_map<uint64_t, uint32_t> memo_;
  int64_t items_ = 0;       // of all containers
  std::vector<int> depth_;  // of each node; a leaf has 1
  Pickle out_;
};

Pickle Pickle::parse(std::span<const std::byte> bytes, const std::string& file,
                     const PickleLimits& limits) {
  return PickleMachine(bytes, file, limits).run();
}

std::string Pickle::dependency(const PickleNode& node) const {
  const PickleNode* n = &node;
  // The callable of an object may be an object in turn; each is older than what holds it.
  for (int i = 0; n->kind == Kind::object && i < 64; ++i) n = &item(*n, 0);
  return n->kind == Kind::global ? std::string(n->text) : std::string();
}

}  // namespace shunt
