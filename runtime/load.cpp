// Reads are cut into tiles of a few MiB; threads take tiles until none is left. A tile is gathered
// from its file into a staging buffer with its rows packed, transposed if asked, and copied to its
// place with the parameter's pitch. Rows that lie packed on both sides go directly into host
// memory. Entry point WeightLoader::run(); tested by tests/runtime/session/load_test.cpp.
#include "runtime/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "ir/error.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/dequantize.h"
#include "runtime/device.h"

namespace shunt {

namespace {

constexpr int64_t kTileBytes = 8 << 20;
constexpr int64_t kTransposeRows =
    64;  // rows of a tile that is transposed: 128 bytes of bf16 in a run

/// Rows [row, row + rows) and bytes [begin, begin + bytes) of each, of one Read.
struct Tile {
  const ReadJob* job;
  int64_t row, rows, begin, bytes;
};

void cut(const ReadJob& job, std::vector<Tile>& tiles) {
  const Read& r = *job.read;
  if (r.rows == 0 || r.row_bytes == 0) return;
  const int64_t most_rows = r.transpose_rows > 0 ? kTransposeRows : INT64_MAX;
  const int64_t rows =
      std::clamp<int64_t>(kTileBytes / r.row_bytes, 1, std::min(most_rows, r.rows));
  const int64_t bytes =
      std::min(r.row_bytes, kTileBytes / rows / r.element_bytes * r.element_bytes);
  for (int64_t row = 0; row < r.rows; row += rows) {
    for (int64_t begin = 0; begin < r.row_bytes; begin += bytes) {
      tiles.push_back(
          {&job, row, std::min(rows, r.rows - row), begin, std::min(bytes, r.row_bytes - begin)});
    }
  }
}

/// The tile's bytes from the file where the elements of a row are not adjacent, packed, to `out`.
void gather_strided(const Tile& t, const FileReader& file, std::byte* out) {
  const Read& r = *t.job->read;
  const int64_t e = r.element_bytes, n = t.bytes / e;
  std::vector<std::byte> span(static_cast<size_t>((n - 1) * r.from_stride + e));
  for (int64_t i = 0; i < t.rows; ++i) {
    const int64_t row = r.from_offset + (t.row + i) * r.from_pitch;
    file.read(row + t.begin / e * r.from_stride, span);
    for (int64_t c = 0; c < n; ++c)
      std::memcpy(out + i * t.bytes + c * e, span.data() + c * r.from_stride,
                  static_cast<size_t>(e));
  }
}

/// The tile's bytes from the files, rows packed, to `out`.
void gather(const Tile& t, std::span<const FileReader> files, Dequantizer& dequantizer,
            std::byte* out) {
  const Read& r = *t.job->read;
  const FileReader& file = files[static_cast<size_t>(r.file)];
  if (r.dequantize) {
    return dequantizer.expand(r, files, t.row, t.rows, t.begin / r.element_bytes,
                              t.bytes / r.element_bytes, out);
  }
  if (r.from_stride != 0 && r.from_stride != r.element_bytes) return gather_strided(t, file, out);
  const int64_t from = r.from_offset + t.row * r.from_pitch + t.begin;
  if (t.rows == 1 || (r.from_pitch == r.row_bytes && t.bytes == r.row_bytes)) {
    return file.read(from, {out, static_cast<size_t>(t.rows * t.bytes)});
  }
  for (int64_t i = 0; i < t.rows; ++i) {
    file.read(from + i * r.from_pitch, {out + i * t.bytes, static_cast<size_t>(t.bytes)});
  }
}

template <class Element>
void transpose(const std::byte* from, int64_t rows, int64_t columns, std::byte* to) {
  const auto* x = reinterpret_cast<const Element*>(from);
  auto* y = reinterpret_cast<Element*>(to);
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) y[c * rows + r] = x[r * columns + c];
  }
}

void transpose(const std::byte* from, int64_t rows, int64_t columns, int64_t element_bytes,
               std::byte* to) {
  switch (element_bytes) {
    case 1: return transpose<uint8_t>(from, rows, columns, to);
    case 2: return transpose<uint16_t>(from, rows, columns, to);
    case 4: return transpose<uint32_t>(from, rows, columns, to);
    case 8: return transpose<uint64_t>(from, rows, columns, to);
    default: break;
  }
  internal_error(__FILE__, __LINE__, "elements of {} bytes", element_bytes);
}

/// Where a packed block of `rows` runs of `bytes` goes.
struct Place {
  std::byte* to;
  int64_t pitch, rows, bytes;
};

Place place_of(const Tile& t) {
  const Read& r = *t.job->read;
  if (r.transpose_rows == 0)
    return {t.job->to + t.row * r.to_pitch + t.begin, r.to_pitch, t.rows, t.bytes};
  const int64_t e =
      r.element_bytes;  // element (row, c) of the file is element (c, row) of the parameter
  return {t.job->to + t.begin / e * r.to_pitch + t.row * e, r.to_pitch, t.bytes / e, t.rows * e};
}

/// One thread's way of bringing tiles to their places.
class Mover {
 public:
  virtual ~Mover() = default;
  virtual void move(const Tile& tile, std::span<const FileReader> files) = 0;
  virtual void finish() {}

 protected:
  Dequantizer dequantizer_;
};

class HostMover : public Mover {
 public:
  void move(const Tile& t, std::span<const FileReader> files) override {
    const Read& r = *t.job->read;
    const Place p = place_of(t);
    if (r.transpose_rows == 0 && (p.pitch == p.bytes || t.rows == 1))
      return gather(t, files, dequantizer_, p.to);
    staging_.resize(static_cast<size_t>(t.rows * t.bytes));
    gather(t, files, dequantizer_, staging_.data());
    const std::byte* from = staging_.data();
    if (r.transpose_rows > 0) {
      transposed_.resize(staging_.size());
      transpose(from, t.rows, t.bytes / r.element_bytes, r.element_bytes, transposed_.data());
      from = transposed_.data();
    }
    for (int64_t i = 0; i < p.rows; ++i) {
      std::memcpy(p.to + i * p.pitch, from + i * p.bytes, static_cast<size_t>(p.bytes));
    }
  }

 private:
  std::vector<std::byte> staging_, transposed_;
};

/// Two staging buffers: while one is copied to the GPU the other is filled.
class DeviceMover : public Mover {
 public:
  explicit DeviceMover(int64_t staging_bytes) {
    for (Slot& s : slots_) s.memory = PinnedBuffer(staging_bytes, "staging of weights");
  }
  void move(const Tile& t, std::span<const FileReader> files) override {
    const Read& r = *t.job->read;
    Slot& slot = slots_[next_];
    next_ ^= 1;
    slot.copied.synchronize();
    if (r.transpose_rows > 0) {
      gathered_.resize(static_cast<size_t>(t.rows * t.bytes));
      gather(t, files, dequantizer_, gathered_.data());
      transpose(gathered_.data(), t.rows, t.bytes / r.element_bytes, r.element_bytes,
                slot.memory.data());
    } else {
      gather(t, files, dequantizer_, slot.memory.data());
    }
    const Place p = place_of(t);
    copy_2d_to_device(p.to, p.pitch, slot.memory.data(), p.bytes, p.bytes, p.rows, stream_);
    stream_.record(slot.copied);
  }
  void finish() override { stream_.synchronize(); }

 private:
  struct Slot {
    PinnedBuffer memory;
    Event copied;
  };
  Stream stream_;
  Slot slots_[2];
  int next_ = 0;
  std::vector<std::byte> gathered_;
};

}  // namespace

WeightLoader::WeightLoader(std::span<const PlanFile> files,
                           const std::filesystem::path& model_directory, int device, int threads)
    : device_(device), threads_(std::max(1, threads)) {
  files_.reserve(files.size());
  for (const PlanFile& f : files) {
    files_.emplace_back(model_directory, CheckpointFile{f.name, f.size, f.header_digest});
  }
}

void WeightLoader::run(std::span<const ReadJob> jobs, int64_t total_bytes,
                       const LoadProgress& progress) {
  std::vector<Tile> tiles;
  for (const ReadJob& job : jobs) cut(job, tiles);
  int64_t largest = 0;
  for (const Tile& t : tiles) largest = std::max(largest, t.rows * t.bytes);

  std::atomic<size_t> next{0};
  std::mutex mutex;  // progress and error
  std::exception_ptr error;
  const auto work = [&] {
    try {
      std::unique_ptr<Mover> mover;
      if (device_ >= 0) {
        use_device(device_);
        mover = std::make_unique<DeviceMover>(largest);
      } else {
        mover = std::make_unique<HostMover>();
      }
      for (size_t i = next++; i < tiles.size(); i = next++) {
        const Tile& t = tiles[i];
        mover->move(t, files_);
        const std::lock_guard lock(mutex);
        done_ += t.rows * t.bytes;
        if (progress) progress(done_, total_bytes);
      }
      mover->finish();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
      next = tiles.size();
    }
  };
  const auto count = std::min<size_t>(static_cast<size_t>(threads_), tiles.size());
  std::vector<std::thread> others;
  for (size_t i = 1; i < count; ++i) others.emplace_back(work);
  if (count > 0) work();
  for (std::thread& t : others) t.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace shunt
