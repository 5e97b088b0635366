// Times the host kernels on the shapes of examples/storyteller: one token a step, and a prefill of
// 1,024 tokens. Usage: host_bench [threads] [context]. Prints microseconds a call (the median of
// many) and their sum over the model.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "ir/types.h"
#include "runtime/host/host.h"

namespace shunt {
namespace {

constexpr int64_t kLayers = 4, kHidden = 256, kHeads = 4, kKvHeads = 2, kHeadDim = 64,
                  kExperts = 16, kRoutes = 2, kWidth = 128, kVocab = 4096, kPage = 64;
constexpr int64_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;

std::vector<float> random_floats(int64_t n, float scale = 1.0f) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> d(0, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = d(generator);
  return x;
}

std::vector<uint16_t> random_weight(int64_t n) {
  std::vector<uint16_t> w;
  for (float v : random_floats(n, 0.06f)) w.push_back(bf16_from_f32(v));
  return w;
}

struct Call {
  HostKernel kernel;
  std::vector<HostSlot> slots;
  explicit Call(const char* name) : kernel(find_host_kernel(name)) {}
  template <class T>
  Call& p(const std::vector<T>& v) {
    slots.push_back(HostSlot::pointer(const_cast<T*>(v.data())));
    return *this;
  }
  Call& none() {
    slots.push_back(HostSlot::null());
    return *this;
  }
  Call& i(int64_t v) {
    slots.push_back(HostSlot::integer(v));
    return *this;
  }
  Call& f(double v) {
    slots.push_back(HostSlot::real(v));
    return *this;
  }
  Call& e(const HostExpr* v) {
    slots.push_back(HostSlot::expr(v));
    return *this;
  }
};

double median_us(ThreadPool& pool, const std::vector<Call>& calls, double budget_seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  const auto start = Clock::now();
  // Several copies of a call use several weights, as the layers of a model do.
  while (times.size() < 3 ||
         std::chrono::duration<double>(Clock::now() - start).count() < budget_seconds) {
    const auto before = Clock::now();
    for (const Call& c : calls) c.kernel(c.slots, pool);
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - before).count() /
                    static_cast<double>(calls.size()));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

struct Layer {
  std::vector<uint16_t> qkv = random_weight(kQkv * kHidden),
                        o = random_weight(kHidden * kHeads * kHeadDim);
  std::vector<uint16_t> norm = random_weight(kHidden), q_norm = random_weight(kHeadDim),
                        k_norm = q_norm;
  std::vector<uint16_t> router = random_weight(kExperts * kHidden);
  std::vector<uint16_t> w13 = random_weight(kExperts * 2 * kWidth * kHidden);
  std::vector<uint16_t> w2 = random_weight(kExperts * kHidden * kWidth);
  std::vector<float> k, v;  // paged state
};

class Model {
 public:
  Model(ThreadPool& pool, int64_t tokens, int64_t context)
      : pool_(pool), t_(tokens), context_(context) {
    const int64_t pages = (context + kPage - 1) / kPage;
    for (int64_t i = 0; i < pages; ++i) tables_.push_back(static_cast<int32_t>(i));
    for (Layer& layer : layers_) {
      layer.k = random_floats(pages * kPage * kKvHeads * kHeadDim);
      layer.v = layer.k;
    }
    for (int64_t t = 0; t < t_; ++t) {
      ids_in_.push_back(static_cast<int32_t>(t * 37 % kVocab));
      positions_.push_back(static_cast<int32_t>(context - t_ + t));
    }
    starts_ = {0, static_cast<int32_t>(t_)};
    lens_ = {static_cast<int32_t>(context)};
    for (int64_t i = 0; i < kHeadDim / 2; ++i)
      inv_freq_.push_back(std::pow(10000.0f, -static_cast<float>(i) / 32));
  }

  void run() {
    fmt::print("T = {}, context {}, {} threads, {}\n", t_, context_, pool_.threads(),
               host::simd().name);
    const auto bf16 = static_cast<int64_t>(DType::bf16), f32 = static_cast<int64_t>(DType::f32);
    time("embedding", 1, [&](Layer&) {
      return Call("embedding").p(ids_in_).p(lm_head_).i(bf16).i(t_).i(kVocab).i(kHidden).i(0).p(x_);
    });
    time("rms_norm", 1, [&](Layer& l) {
      return Call("rms_norm").p(x_).p(l.norm).i(bf16).i(t_).i(kHidden).f(1e-6).i(0).p(normed_);
    });
    time("linear qkv", kLayers, [&](Layer& l) {
      return Call("linear")
          .p(normed_)
          .p(l.qkv)
          .i(bf16)
          .i(t_)
          .i(kQkv)
          .i(kHidden)
          .i(0)
          .e(nullptr)
          .p(qkv_)
          .i(0);
    });
    time("rope_append", kLayers, [&](Layer& l) {
      return Call("rope_append")
          .p(qkv_)
          .p(positions_)
          .p(inv_freq_)
          .p(l.q_norm)
          .i(bf16)
          .p(l.k_norm)
          .i(bf16)
          .p(starts_)
          .p(tables_)
          .p(l.k)
          .p(l.v)
          .i(t_)
          .i(1)
          .i(static_cast<int64_t>(tables_.size()))
          .i(kHeads)
          .i(kKvHeads)
          .i(kHeadDim)
          .i(kHeadDim / 2)
          .i(kPage)
          .i(static_cast<int64_t>(HostHeadNorm::head))
          .f(1e-6)
          .i(0)
          .i(0)
          .f(1)
          .p(q_);
    });
    time("attention", kLayers, [&](Layer& l) {
      return Call("attention")
          .p(q_)
          .p(starts_)
          .p(lens_)
          .p(tables_)
          .p(l.k)
          .p(l.v)
          .none()
          .i(f32)
          .none()
          .i(f32)
          .i(t_)
          .i(1)
          .i(static_cast<int64_t>(tables_.size()))
          .i(kHeads)
          .i(kKvHeads)
          .i(kHeadDim)
          .i(kHeadDim)
          .i(kPage)
          .f(0.125)
          .i(0)
          .i(0)
          .f(0)
          .p(attended_);
    });
    time("linear o", kLayers, [&](Layer& l) {
      return Call("linear")
          .p(attended_)
          .p(l.o)
          .i(bf16)
          .i(t_)
          .i(kHidden)
          .i(kHeads * kHeadDim)
          .i(0)
          .e(nullptr)
          .p(y_)
          .i(0);
    });
    time("norm_gate", kLayers, [&](Layer& l) {
      return Call("norm_gate")
          .p(x_)
          .p(y_)
          .p(l.norm)
          .i(bf16)
          .p(l.router)
          .i(bf16)
          .none()
          .i(f32)
          .i(t_)
          .i(kHidden)
          .f(1e-6)
          .i(0)
          .p(sum_)
          .p(normed_)
          .p(router_logits_)
          .none()
          .i(f32)
          .none()
          .i(t_)
          .i(kExperts)
          .i(kRoutes)
          .i(static_cast<int64_t>(HostScore::softmax))
          .i(static_cast<int64_t>(HostRouteNorm::sum))
          .f(0)
          .f(0)
          .f(1)
          .f(0)
          .i(1)
          .i(1)
          .i(0)
          .p(route_w_)
          .p(route_ids_);
    });
    const bool sorted = t_ > 16;
    if (sorted) {
      time("route_sort", kLayers, [&](Layer&) {
        return Call("route_sort").p(route_ids_).i(t_ * kRoutes).i(kExperts).p(offsets_).p(rows_);
      });
      time("grouped gate/up", kLayers, [&](Layer& l) {
        return Call("grouped_linear")
            .p(normed_)
            .p(l.w13)
            .i(bf16)
            .p(offsets_)
            .p(rows_)
            .i(t_ * kRoutes)
            .i(kRoutes)
            .i(0)
            .i(kExperts)
            .i(2 * kWidth)
            .i(kHidden)
            .i(1)
            .e(&swiglu_)
            .p(act_)
            .i(0);
      });
      time("grouped down", kLayers, [&](Layer& l) {
        return Call("grouped_linear")
            .p(act_)
            .p(l.w2)
            .i(bf16)
            .p(offsets_)
            .p(rows_)
            .i(t_ * kRoutes)
            .i(0)
            .i(1)
            .i(kExperts)
            .i(kHidden)
            .i(kWidth)
            .i(0)
            .e(nullptr)
            .p(expert_out_)
            .i(0);
      });
    } else {
      time("routed gate/up", kLayers, [&](Layer& l) {
        return Call("routed_linear")
            .p(normed_)
            .p(l.w13)
            .i(bf16)
            .p(route_ids_)
            .i(t_ * kRoutes)
            .i(kRoutes)
            .i(kExperts)
            .i(2 * kWidth)
            .i(kHidden)
            .i(1)
            .e(&swiglu_)
            .p(act_)
            .i(0);
      });
      time("routed down", kLayers, [&](Layer& l) {
        return Call("routed_linear")
            .p(act_)
            .p(l.w2)
            .i(bf16)
            .p(route_ids_)
            .i(t_ * kRoutes)
            .i(1)
            .i(kExperts)
            .i(kHidden)
            .i(kWidth)
            .i(0)
            .e(nullptr)
            .p(expert_out_)
            .i(0);
      });
    }
    time("combine_routes", kLayers, [&](Layer&) {
      return Call("combine_routes")
          .p(expert_out_)
          .p(route_w_)
          .p(route_ids_)
          .p(sum_)
          .i(t_)
          .i(kRoutes)
          .i(kHidden)
          .p(x_);
    });
    time("rms_norm", kLayers, [&](Layer& l) {
      return Call("rms_norm").p(x_).p(l.norm).i(bf16).i(t_).i(kHidden).f(1e-6).i(0).p(normed_);
    });
    time("linear lm_head", 1, [&](Layer&) {
      return Call("linear")
          .p(normed_)
          .p(lm_head_)
          .i(bf16)
          .i(1)
          .i(kVocab)
          .i(kHidden)
          .i(0)
          .e(nullptr)
          .p(logits_)
          .i(0);
    });
    time("sample, greedy", 1, [&](Layer&) {
      return Call("sample").p(logits_).p(zero_).p(top_k_).p(one_).p(half_).i(1).i(kVocab).p(id_);
    });
    fmt::print("{:18} {:10.1f} us = {:.0f} tokens/s\n", "all", total_,
               static_cast<double>(t_) * 1e6 / total_);
    time("sample, top-p", 0, [&](Layer&) {
      return Call("sample").p(logits_).p(one_).p(top_k_).p(half_).p(half_).i(1).i(kVocab).p(id_);
    });
    fmt::print("\n");
  }

 private:
  void time(const char* name, int64_t times, const std::function<Call(Layer&)>& make) {
    std::vector<Call> calls;
    for (Layer& layer : layers_) calls.push_back(make(layer));
    const double us = median_us(pool_, calls, t_ == 1 ? 0.05 : 0.2);
    fmt::print("{:18} {:10.1f} us x {}\n", name, us, times);
    total_ += us * static_cast<double>(times);
  }

  ThreadPool& pool_;
  int64_t t_, context_;
  std::vector<Layer> layers_{kLayers};
  std::vector<uint16_t> lm_head_ = random_weight(kVocab * kHidden);
  HostExpr swiglu_ = HostExpr::compile("silu(gate) * up");
  std::vector<int32_t> ids_in_, positions_, starts_, lens_, tables_;
  std::vector<float> inv_freq_;
  std::vector<float> x_ = random_floats(t_ * kHidden), y_ = x_, sum_ = x_, normed_ = x_;
  std::vector<float> qkv_ = random_floats(t_ * kQkv), q_ = random_floats(t_ * kHeads * kHeadDim),
                     attended_ = q_;
  std::vector<float> router_logits_ = random_floats(t_ * kExperts),
                     route_w_ = random_floats(t_ * kRoutes);
  std::vector<int32_t> route_ids_ = std::vector<int32_t>(static_cast<size_t>(t_ * kRoutes));
  std::vector<int32_t> offsets_ = std::vector<int32_t>(kExperts + 1), rows_ = route_ids_;
  std::vector<float> act_ = random_floats(t_ * kRoutes * kWidth),
                     expert_out_ = random_floats(t_ * kRoutes * kHidden);
  std::vector<float> logits_ = random_floats(kVocab), zero_{0}, one_{1}, half_{0.5f};
  std::vector<int32_t> top_k_{0}, id_{0};
  double total_ = 0;
};

void time_pool(ThreadPool& pool) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLoops = 20000;
  const auto before = Clock::now();
  for (int i = 0; i < kLoops; ++i) pool.parallel_for(pool.threads() * 2, [](int64_t, int) {});
  fmt::print("an empty parallel_for: {:.2f} us\n\n",
             std::chrono::duration<double, std::micro>(Clock::now() - before).count() / kLoops);
}

}  // namespace
}  // namespace shunt

int main(int argc, char** argv) {
  shunt::ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 0);
  const int64_t context = argc > 2 ? std::atoi(argv[2]) : 512;
  shunt::time_pool(pool);
  shunt::Model(pool, 1, context).run();
  shunt::Model(pool, 8, 512).run();
  shunt::Model(pool, 1024, 1024).run();
}
