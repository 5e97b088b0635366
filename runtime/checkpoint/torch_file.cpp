// From a pickle to tensors with absolute offsets. Entry point: TorchFile::parse(). Tested by
// tests/runtime/checkpoint/torch_file_test.cpp and tests/fuzz/fuzz_torch_file.cpp.
#include "runtime/checkpoint/torch_file.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "ir/error.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/pickle.h"
#include "runtime/checkpoint/strict_json.h"

namespace shunt {

namespace {

using Kind = PickleNode::Kind;

constexpr std::string_view kBroken = "the file is broken: copy or save it again";
constexpr int kMaxPathDepth = 64;
constexpr int64_t kMaxPathBytes = 1024;        // of one path
constexpr int64_t kMaxNamesBytes = 512 << 20;  // of all paths
constexpr size_t kMaxRank = 16;
constexpr size_t kMaxArguments = 8;  // of a tensor's record

struct ElementType {
  std::string_view storage;  // torch.<storage>
  std::string_view dtype;    // torch.<dtype>
  int64_t bytes;
  std::optional<DType> type;  // nullopt: known, and not read
};

constexpr ElementType kElementTypes[] = {
    {"BFloat16Storage", "bfloat16", 2, DType::bf16},
    {"HalfStorage", "float16", 2, DType::f16},
    {"FloatStorage", "float32", 4, DType::f32},
    {"LongStorage", "int64", 8, DType::i64},
    {"IntStorage", "int32", 4, DType::i32},
    {"ByteStorage", "uint8", 1, DType::u8},
    {"", "float8_e4m3fn", 1, DType::f8e4m3},
    {"DoubleStorage", "float64", 8, std::nullopt},
    {"ShortStorage", "int16", 2, std::nullopt},
    {"CharStorage", "int8", 1, std::nullopt},
    {"BoolStorage", "bool", 1, std::nullopt},
    {"", "float8_e5m2", 1, std::nullopt},
    {"ComplexFloatStorage", "complex64", 8, std::nullopt},
    {"ComplexDoubleStorage", "complex128", 16, std::nullopt},
};

const ElementType* find_type(std::string_view name, std::string_view ElementType::*field) {
  if (!name.starts_with("torch.")) return nullptr;
  for (const ElementType& t : kElementTypes) {
    if (!(t.*field).empty() && t.*field == name.substr(6)) return &t;
  }
  return nullptr;
}

/// The arguments of a tensor's rebuild function that matter.
struct TensorRecord {
  std::string key;  // of the storage
  const ElementType* type = nullptr;
  int64_t storage_elements = 0, storage_element_bytes = 0;
  int64_t offset = 0;  // in elements
  std::vector<int64_t> shape, stride;
};

class Reader {
 public:
  Reader(const ByteSource& source, const std::string& name) : source_(source) { out_.file = name; }

  TorchFile read() {
    zip_ = read_zip_directory(source_, out_.file);
    out_.digest = zip_.digest;
    const ZipEntry& pickle_entry = find_pickle();
    check_byte_order();
    constexpr int64_t kMaxPickle = PickleLimits{}.max_bytes;
    if (pickle_entry.bytes > kMaxPickle) {
      user_error("{}: its pickle has {} bytes, more than {}", out_.file, pickle_entry.bytes,
                 kMaxPickle);
    }
    bytes_.resize(static_cast<size_t>(pickle_entry.bytes));
    source_.read(pickle_entry.offset, bytes_);
    pickle_ = Pickle::parse(bytes_, out_.file);
    walk();
    sort();
    return std::move(out_);
  }

 private:
  /// The one entry NAME/data.pkl; sets prefix_.
  const ZipEntry& find_pickle() {
    const ZipEntry* found = nullptr;
    for (const ZipEntry& e : zip_.entries) {
      const size_t slash = e.name.find('/');
      if (slash == std::string::npos || e.name.substr(slash) != "/data.pkl") continue;
      if (found != nullptr) user_error("{}: two entries are data.pkl; {}", out_.file, kBroken);
      found = &e;
      prefix_ = e.name.substr(0, slash + 1);
    }
    if (found == nullptr) {
      user_error("{}: a zip archive without data.pkl, so not of torch.save; check the path",
                 out_.file);
    }
    return *found;
  }

  void check_byte_order() {
    const ZipEntry* entry = zip_.find(prefix_ + "byteorder");
    if (entry == nullptr) return;
    char text[6] = {};
    if (entry->bytes == 6) source_.read(entry->offset, std::as_writable_bytes(std::span(text)));
    if (std::string_view(text, 6) != "little") {
      user_error("{}: byte order is not little-endian; save it on a little-endian machine",
                 out_.file);
    }
  }

  // ---- tensors ----

  const PickleNode* argument(const PickleNode& call, size_t i, Kind kind) const {
    const PickleNode& arguments = pickle_.item(call, 1);
    if (arguments.kind != Kind::tuple || arguments.items.size() <= i) return nullptr;
    const PickleNode& node = pickle_.item(arguments, i);
    return node.kind == kind ? &node : nullptr;
  }

  std::optional<std::vector<int64_t>> sizes(const PickleNode* tuple) const {
    if (tuple == nullptr || tuple->items.size() > kMaxRank) return std::nullopt;
    std::vector<int64_t> out;
    for (size_t i = 0; i < tuple->items.size(); ++i) {
      const PickleNode& n = pickle_.item(*tuple, i);
      if (n.kind != Kind::integer || n.integer < 0) return std::nullopt;
      out.push_back(n.integer);
    }
    return out;
  }

  /// ('storage', torch.XStorage, key, location, elements)
  bool read_storage(const PickleNode* id, TensorRecord* r) const {
    if (id == nullptr) return false;
    const PickleNode& tuple = pickle_.item(*id, 0);
    if (tuple.kind != Kind::tuple || tuple.items.size() != 5) return false;
    const PickleNode& tag = pickle_.item(tuple, 0);
    const PickleNode& type = pickle_.item(tuple, 1);
    const PickleNode& key = pickle_.item(tuple, 2);
    const PickleNode& elements = pickle_.item(tuple, 4);
    if (tag.kind != Kind::text || tag.text != "storage" || type.kind != Kind::global ||
        key.kind != Kind::text || elements.kind != Kind::integer || elements.integer < 0) {
      return false;
    }
    r->key = key.text;
    r->storage_elements = elements.integer;
    r->storage_element_bytes = 1;
    if (type.text == "torch.storage.UntypedStorage") return true;
    r->type = find_type(type.text, &ElementType::storage);
    if (r->type != nullptr) r->storage_element_bytes = r->type->bytes;
    return r->type != nullptr;
  }

  /// True for torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...) and _v3, which
  /// has the element type as seventh argument. Parameters wrap a tensor.
  std::optional<TensorRecord> read_record(const PickleNode* node) const {
    for (int i = 0; i < 4 && pickle_.dependency(*node) == "torch._utils._rebuild_parameter"; ++i) {
      node = node->items.size() < 2 ? nullptr : argument(*node, 0, Kind::object);
      if (node == nullptr) return std::nullopt;
    }
    const std::string name = pickle_.dependency(*node);
    const bool v3 = name == "torch._utils._rebuild_tensor_v3";
    if (node->kind != Kind::object || node->items.size() != 2 ||
        pickle_.item(*node, 0).kind != Kind::global ||
        (!v3 && name != "torch._utils._rebuild_tensor_v2")) {
      return std::nullopt;
    }
    TensorRecord r;
    if (!read_storage(argument(*node, 0, Kind::persistent), &r)) return std::nullopt;
    if (v3) {
      const PickleNode* dtype = argument(*node, 6, Kind::global);
      r.type = dtype == nullptr ? nullptr : find_type(dtype->text, &ElementType::dtype);
    }
    const PickleNode* offset = argument(*node, 1, Kind::integer);
    const auto shape = sizes(argument(*node, 2, Kind::tuple));
    const auto stride = sizes(argument(*node, 3, Kind::tuple));
    if (r.type == nullptr || offset == nullptr || offset->integer < 0 || !shape || !stride ||
        shape->size() != stride->size()) {
      return std::nullopt;
    }
    r.offset = offset->integer;
    r.shape = *shape;
    r.stride = *stride;
    return r;
  }

  /// Elements of the storage up to the tensor's last one; checked for overflow.
  int64_t extent(const TensorRecord& r, const std::string& path) const {
    int64_t last = r.offset, elements = 1;
    bool overflow = false;
    for (size_t i = 0; i < r.shape.size(); ++i) {
      overflow |= __builtin_mul_overflow(elements, r.shape[i], &elements);
      int64_t reach = 0;
      overflow |= __builtin_mul_overflow(std::max<int64_t>(r.shape[i] - 1, 0), r.stride[i], &reach);
      overflow |= __builtin_add_overflow(last, reach, &last);
    }
    overflow |= __builtin_add_overflow(last, 1, &last);
    int64_t bytes = 0;
    overflow |= __builtin_mul_overflow(last, r.type->bytes, &bytes);
    overflow |= __builtin_mul_overflow(elements, r.type->bytes, &bytes);
    if (overflow) {
      user_error("{}: tensor {}: shape [{}] with strides [{}] overflows; {}", out_.file,
                 quote_name(path), fmt::join(r.shape, ", "), fmt::join(r.stride, ", "), kBroken);
    }
    return elements == 0 ? 0 : last;
  }

  static bool is_row_major(const TensorRecord& r) {
    int64_t run = 1;
    for (size_t i = r.shape.size(); i-- > 0;) {
      if (r.shape[i] != 1 && r.stride[i] != run) return false;
      run *= std::max<int64_t>(r.shape[i], 1);
    }
    return true;
  }

  void add_tensor(const TensorRecord& r, const std::string& path) {
    const ZipEntry* entry = zip_.find(prefix_ + "data/" + r.key);
    if (entry == nullptr) {
      user_error("{}: tensor {}: storage {} is not in the archive; {}", out_.file, quote_name(path),
                 quote_name(r.key), kBroken);
    }
    int64_t declared = 0;
    if (__builtin_mul_overflow(r.storage_elements, r.storage_element_bytes, &declared) ||
        declared > entry->bytes) {
      user_error("{}: tensor {}: storage {} has {} bytes, fewer than its {} elements need; {}",
                 out_.file, quote_name(path), quote_name(r.key), entry->bytes, r.storage_elements,
                 kBroken);
    }
    const int64_t needed = extent(r, path);
    if (needed > declared / r.type->bytes) {
      user_error(
          "{}: tensor {}: shape [{}] with strides [{}] at {} reaches element {} of a storage of "
          "{}; {}",
          out_.file, quote_name(path), fmt::join(r.shape, ", "), fmt::join(r.stride, ", "),
          r.offset, needed, declared / r.type->bytes, kBroken);
    }
    if (!r.type->type) {
      out_.unreadable.push_back({path, std::string(r.type->dtype), 0});
      return;
    }
    if (needed > 0 && !is_row_major(r)) {
      add_opaque(path, fmt::format("its strides [{}] are not those of a contiguous tensor: save it "
                                   "with .contiguous()",
                                   fmt::join(r.stride, ", ")));
      return;
    }
    TensorInfo info{path, *r.type->type, r.shape, 0, entry->offset, 0};
    if (needed > 0) {
      info.offset += r.offset * r.type->bytes;
      info.bytes = r.type->bytes;
      for (const int64_t n : r.shape) info.bytes *= n;
    }
    out_.tensors.push_back(std::move(info));
  }

  // ---- the walk ----

  void add_opaque(const std::string& path, std::string reason) {
    out_.opaque.push_back({path, std::move(reason)});
  }

  void add_value(const PickleNode& n, const std::string& path) {
    TorchValue v;
    v.path = path;
    if (n.kind == Kind::integer || n.kind == Kind::boolean) {
      v.integer = n.integer;
      v.real = static_cast<double>(n.integer);
    } else if (n.kind == Kind::real) {
      v.real = n.real;
    } else {
      v.text = std::string(n.text);
    }
    out_.values.push_back(std::move(v));
  }

  struct Pending {
    uint32_t node;
    std::string path;
    int depth;
  };

  std::string joined(const std::string& path, std::string_view key) {
    std::string whole = path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
    path_bytes_ += static_cast<int64_t>(whole.size());
    if (static_cast<int64_t>(whole.size()) > kMaxPathBytes || path_bytes_ > kMaxNamesBytes) {
      user_error("{}: key {} is too long; {}", out_.file, quote_name(whole), kBroken);
    }
    return whole;
  }

  void add_children(const PickleNode& n, const Pending& parent, std::vector<Pending>& todo) {
    if (parent.depth >= kMaxPathDepth) {
      user_error("{}: {} nests deeper than {}; {}", out_.file, quote_name(parent.path),
                 kMaxPathDepth, kBroken);
    }
    const size_t step = n.kind == Kind::dict ? 2 : 1;
    for (size_t i = 0; i < n.items.size(); i += step) {
      std::string key = fmt::format("{}", i);
      if (step == 2) {
        const PickleNode& k = pickle_.item(n, i);
        if (k.kind == Kind::text) {
          key = k.text;
        } else if (k.kind == Kind::integer) {
          key = fmt::format("{}", k.integer);
        } else {
          continue;  // a key that no path can name
        }
      }
      todo.push_back({n.items[i + step - 1], joined(parent.path, key), parent.depth + 1});
    }
  }

  /// Long tuples of numbers are states of random generators: nobody asks for their elements.
  bool is_number_list(const PickleNode& n) const {
    return n.items.size() > 64 && pickle_.item(n, 0).kind == Kind::integer &&
           pickle_.item(n, n.items.size() - 1).kind == Kind::integer;
  }

  void visit(const Pending& p, std::vector<Pending>& todo) {
    const PickleNode& n = pickle_.node(p.node);
    switch (n.kind) {
      case Kind::dict: return add_children(n, p, todo);
      case Kind::list:
      case Kind::tuple:
        if (is_number_list(n)) return add_opaque(p.path, "it is a long list of numbers");
        return add_children(n, p, todo);
      case Kind::boolean:
      case Kind::integer:
      case Kind::real:
      case Kind::text: return add_value(n, p.path);
      case Kind::object:
      case Kind::global: {
        if (const auto record = read_record(&n)) return add_tensor(*record, p.path);
        return add_opaque(p.path, opaque_reason(n));
      }
      default: return;  // None, bytes, sets: not for us
    }
  }

  /// What a tensor's record takes from elsewhere: a call among its arguments or in a tuple there.
  std::string foreign_argument(const PickleNode& arguments) const {
    for (size_t i = 0; i < std::min(arguments.items.size(), kMaxArguments); ++i) {
      const PickleNode& a = pickle_.item(arguments, i);
      if (a.kind == Kind::object) return pickle_.dependency(a);
      for (size_t j = 0; a.kind == Kind::tuple && j < std::min(a.items.size(), kMaxRank); ++j) {
        if (pickle_.item(a, j).kind == Kind::object) return pickle_.dependency(pickle_.item(a, j));
      }
    }
    return {};
  }

  std::string opaque_reason(const PickleNode& n) const {
    std::string name = pickle_.dependency(n);
    if (name.starts_with("torch._utils._rebuild_") && n.kind == Kind::object) {
      const std::string foreign = foreign_argument(pickle_.item(n, 1));
      if (!foreign.empty()) name = foreign;
    }
    if (name.starts_with("torch._utils._rebuild_")) {
      return fmt::format("its record of {} is not one that torch.save writes", quote_name(name));
    }
    return fmt::format(
        "it depends on {}, which is never imported or called; save it as a plain tensor or number",
        quote_name(name));
  }

  void walk() {
    std::vector<Pending> todo = {{pickle_.root_index(), "", 0}};
    // A value may be shared, but not so often that a small file means millions of paths.
    const int64_t most = 4 * pickle_.size() + 1000;
    int64_t visited = 0;
    while (!todo.empty()) {
      const Pending next = std::move(todo.back());
      todo.pop_back();
      if (++visited + static_cast<int64_t>(todo.size()) > most) {
        user_error("{}: its containers share parts more than {} times; {}", out_.file, most,
                   kBroken);
      }
      visit(next, todo);
    }
  }

  void sort() {
    std::ranges::sort(out_.tensors, {}, &TensorInfo::name);
    std::ranges::sort(out_.unreadable, {}, &UnreadableTensor::name);
    std::ranges::sort(out_.values, {}, &TorchValue::path);
    std::ranges::sort(out_.opaque, {}, &TorchOpaque::path);
    std::vector<std::string_view> names;
    for (const auto& t : out_.tensors) names.push_back(t.name);
    for (const auto& t : out_.unreadable) names.push_back(t.name);
    for (const auto& v : out_.values) names.push_back(v.path);
    for (const auto& o : out_.opaque) names.push_back(o.path);
    std::ranges::sort(names);
    const auto twice = std::ranges::adjacent_find(names);
    if (twice != names.end()) {
      user_error("{}: two values have the path {}; {}", out_.file, quote_name(*twice), kBroken);
    }
  }

  const ByteSource& source_;
  ZipDirectory zip_;
  std::string prefix_;  // of entries: "archive/"
  std::vector<std::byte> bytes_;
  Pickle pickle_;
  int64_t path_bytes_ = 0;
  TorchFile out_;
};

template <class T>
const T* find_sorted(const std::vector<T>& sorted, std::string_view key, std::string T::*field) {
  const auto it = std::ranges::lower_bound(sorted, key, {},
                                           [&](const T& t) { return std::string_view(t.*field); });
  return it != sorted.end() && (*it).*field == key ? &*it : nullptr;
}

}  // namespace

TorchFile TorchFile::parse(const ByteSource& source, const std::string& file) {
  return Reader(source, file).read();
}

TorchFile TorchFile::open(const FileReader& file) { return parse(FileSource(file), file.path()); }

/// No part of the path may be opaque.
void TorchFile::require_clear(std::string_view path) const {
  for (size_t from = 0, end = 0; end != std::string_view::npos; from = end + 1) {
    end = path.find('.', from);
    const std::string_view part = path.substr(0, end);
    if (const TorchOpaque* o = find_sorted(opaque, part, &TorchOpaque::path)) {
      user_error("{}: {} is needed, but {}{}", file, quote_name(path),
                 part == path ? "" : quote_name(part) + ": ", o->reason);
    }
  }
  if (!opaque.empty() && opaque.front().path.empty()) {
    user_error("{}: {} is needed, but of the whole file: {}", file, quote_name(path),
               opaque.front().reason);
  }
}

const TensorInfo* TorchFile::find(std::string_view path) const {
  require_clear(path);
  if (const auto* u = find_sorted(unreadable, path, &UnreadableTensor::name)) {
    user_error("{}: tensor {} has dtype {}, which Shunt does not read; convert the checkpoint",
               file, quote_name(path), u->dtype);
  }
  return find_sorted(tensors, path, &TensorInfo::name);
}

const TorchValue* TorchFile::find_value(std::string_view path) const {
  require_clear(path);
  return find_sorted(values, path, &TorchValue::path);
}

}  // namespace shunt
