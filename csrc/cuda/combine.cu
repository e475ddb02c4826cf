// Copies, sums and products of whole tensors, for network plans.
#include "algorithms.h"
#include "kernels/combine.cuh"

namespace fastconv::cuda {
namespace {

using Axes = MergedAxes<kCombineOperands>;

Axes axes_of(const CombineCall& call) {
  Axes merged;
  for (int d = 0; d < 4; ++d) {
    // An operand that is not there goes along with y, so that it keeps no axes apart.
    const int64_t b = call.b.present() ? call.b.stride[d] : call.y.stride[d];
    merged.add({call.y.size[d], {call.y.stride[d], call.a.stride[d], b}});
  }
  merged.merge();
  return merged;
}

// Whether an operand's elements can be read in packs, or are one value along them.
template <class T>
bool runs(const Axes& merged, int operand, const TensorView& view, int pack) {
  if (!view.present() || merged.constant_along_packs(operand)) return true;
  return merged.in_packs(operand, view.data, pack, pack * static_cast<int>(sizeof(T)));
}

template <class From, class To>
bool in_packs(const CombineCall& call, const Axes& merged) {
  constexpr int kPack = kCombinePack<From, To>;
  return merged.in_packs(kCombineY, call.y.data, kPack, kPack * static_cast<int>(sizeof(To))) &&
         runs<From>(merged, kCombineA, call.a, kPack) && runs<From>(merged, kCombineB, call.b, kPack);
}

CombineParams params_of(const CombineCall& call, const Axes& merged, int pack) {
  CombineParams params;
  params.index = AxisIndex<kCombineOperands>(merged, pack);
  params.a = call.a.data, params.b = call.b.data, params.y = call.y.data;
  params.multiply = call.what == Combine::kMultiply;
  params.a_step = merged.constant_along_packs(kCombineA) ? 0 : 1;
  params.b_step = merged.constant_along_packs(kCombineB) ? 0 : 1;
  return params;
}

template <class From, class To>
void copy(const CombineCall& call, const Axes& merged, const LaunchConfig& config) {
  constexpr int kPack = kCombinePack<From, To>;
  const auto start = [&](auto kernel, int pack) {
    const CombineParams params = params_of(call, merged, pack);
    launch("copy", flat_launch(config, params.index.count), kernel, params);
  };
  in_packs<From, To>(call, merged) ? start(copy_kernel<From, To, kPack>, kPack) : start(copy_kernel<From, To, 1>, 1);
}

template <class T>
void binary(const CombineCall& call, const Axes& merged, const LaunchConfig& config) {
  constexpr int kPack = kCombinePack<T, T>;
  const auto start = [&](auto kernel, int pack) {
    const CombineParams params = params_of(call, merged, pack);
    launch(params.multiply ? "mul" : "add", flat_launch(config, params.index.count), kernel, params);
  };
  in_packs<T, T>(call, merged) ? start(binary_kernel<T, kPack>, kPack) : start(binary_kernel<T, 1>, 1);
}

}  // namespace

void combine(const CombineCall& call, const CallContext& context) {
  if (call.y.numel() == 0) return;
  LaunchConfig config;
  config.stream = context.stream;
  config.footprint.writes("y", call.y);  // before a, which may be y
  config.footprint.reads("a", call.a).reads("b", call.b);
  const Axes merged = axes_of(call);
  const DType from = call.a.dtype, to = call.y.dtype;
  if (call.what == Combine::kCopy && from == to) {
    const size_t bytes = dtype_size(to);
    bytes == 8   ? copy<uint64_t, uint64_t>(call, merged, config)
    : bytes == 4 ? copy<uint32_t, uint32_t>(call, merged, config)
                 : copy<uint16_t, uint16_t>(call, merged, config);
  } else if (call.what == Combine::kCopy) {
    visit_dtype(from, [&](auto a) {
      visit_dtype(to, [&](auto y) {
        using From = typename decltype(a)::type;
        using To = typename decltype(y)::type;
        if constexpr (!std::is_same_v<From, To>) copy<From, To>(call, merged, config);
      });
    });
  } else {
    visit_dtype(to, [&](auto tag) { binary<typename decltype(tag)::type>(call, merged, config); });
  }
}

}  // namespace fastconv::cuda
