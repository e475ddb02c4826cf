#include "packed.h"

#include <cstring>

#include "../cpu/algorithms.h"
#include "conv_geometry.h"
#include "ops.h"

namespace fastconv::ops {

namespace {

constexpr size_t kHeaderBytes = 128;  // whole cache lines: the kernels' part stays aligned

struct Header {
  char magic[8];
  char isa[16];
  int32_t kind;
  int32_t dtype;
  int32_t extents[13];
  int32_t words;  // of the whole tensor, modulo 2^32: a slice of one is not a packed weight
};
static_assert(sizeof(Header) <= kHeaderBytes);

Header make_header(PackedKind kind, const ConvProblem& p, DType dtype) {
  Header header{};
  std::memcpy(header.magic, "fastconv", 8);
  std::strncpy(header.isa, cpu::kernels().isa, sizeof header.isa - 1);
  header.kind = static_cast<int32_t>(kind);
  header.dtype = static_cast<int32_t>(dtype);
  // What conv2d and gemm pack depends on the weight alone; the others fold the geometry in.
  const bool geometry = kind == PackedKind::kUpsample || kind == PackedKind::kTranspose;
  const int64_t extents[13] = {p.C,        p.K,        p.R,       p.S,        p.groups,     p.scale_h,   p.scale_w,
                               p.stride_h, p.stride_w, p.pad_top, p.pad_left, p.dilation_h, p.dilation_w};
  for (int i = 0; i < (geometry ? 13 : 7); ++i) header.extents[i] = static_cast<int32_t>(extents[i]);
  return header;
}

// Opaque to callers: 32-bit words, whatever the kernels put there. No bytes wanted, or a weight on a GPU, whose kernels
// read weights as they are: an empty tensor.
template <class Pack>
Tensor make_packed(PackedKind kind, const ConvProblem& p, DType dtype, size_t bytes, const Tensor& like, Pack&& pack) {
  const int64_t words = bytes == 0 || !like.is_cpu() ? 0 : static_cast<int64_t>((kHeaderBytes + bytes + 3) / 4);
  Tensor packed = empty({words}, DType::kFloat32, MemoryFormat::kContiguous, like);
  if (words == 0) return packed;
  char* data = static_cast<char*>(data_of(packed));
  Header header = make_header(kind, p, dtype);
  header.words = static_cast<int32_t>(words);
  std::memcpy(data, &header, sizeof header);
  pack(data + kHeaderBytes);
  return packed;
}

ConvProblem weight_problem(const Tensor& weight, int64_t groups, const char* op) {
  require(weight.dim() == 4, op, ": expected weight to have 4 dimensions, but got ", weight.dim());
  require_ints(sizes_of(weight), 4, 0, op, "weight size");
  require_ints({groups}, 1, 1, op, "groups");
  require(weight.size(0) % groups == 0, op, ": expected groups to divide the ", weight.size(0), " filters, but got ",
          groups);
  ConvProblem p;
  p.K = weight.size(0), p.C = weight.size(1) * groups, p.R = weight.size(2), p.S = weight.size(3);
  p.groups = groups;
  return p;
}

// What the header says, if there is one; packed_data holds it against what was wanted.
PackedKind kind_of(const Tensor& packed) {
  const int64_t bytes = packed.is_contiguous() ? packed.numel() * packed.element_size() : 0;
  if (!packed.is_cpu() || bytes <= static_cast<int64_t>(kHeaderBytes)) return PackedKind::kConv2d;
  Header header;
  std::memcpy(&header, packed.const_data_ptr(), sizeof header);
  return static_cast<PackedKind>(header.kind);
}

}  // namespace

const void* packed_data(const Tensor& packed, PackedKind kind, const ConvProblem& problem, DType dtype,
                        const char* op) {
  if (packed.numel() == 0) return nullptr;
  Header wanted = make_header(kind, problem, dtype);
  wanted.words = static_cast<int32_t>(packed.numel());
  const char* data = static_cast<const char*>(packed.const_data_ptr());
  const bool fits = packed.is_cpu() && packed.is_contiguous() && packed.element_size() == 4 &&
                    packed.numel() * 4 > static_cast<int64_t>(kHeaderBytes) &&
                    std::memcmp(data, &wanted, sizeof wanted) == 0;
  require(fits, op, ": expected packed to be made from this weight for the ", wanted.isa,
          " kernels, but it was made from another shape, dtype or instruction set");
  return data + kHeaderBytes;
}

void fill_packed(Conv2dCall& call, const Tensor& packed, const char* op) {
  PackedKind kind = kind_of(packed);
  if (kind == PackedKind::kWinograd2x2) {
    call.packed_format = PackedFormat::kWinograd2x2;
  } else if (kind == PackedKind::kWinograd4x4) {
    call.packed_format = PackedFormat::kWinograd4x4;
  } else if (kind == PackedKind::kConv2dBf16) {
    call.packed_format = PackedFormat::kBf16Pairs;
  } else {
    kind = PackedKind::kConv2d;
  }
  call.packed_w = packed_data(packed, kind, call.problem, call.dtype, op);
}

void fill_packed_upsample(Conv2dCall& call, const Tensor& packed, const char* op) {
  if (kind_of(packed) != PackedKind::kConv2dBf16) {
    call.packed_format = PackedFormat::kPhases;
    call.packed_w = packed_data(packed, PackedKind::kUpsample, call.problem, call.dtype, op);
    return;
  }
  // The filters as they are, whatever the scale.
  ConvProblem p = call.problem;
  p.scale_h = p.scale_w = 1;
  call.packed_format = PackedFormat::kBf16Pairs;
  call.packed_w = packed_data(packed, PackedKind::kConv2dBf16, p, call.dtype, op);
}

void fill_packed(GemmCall& call, const Tensor& packed, const char* op) {
  const bool pairs = kind_of(packed) == PackedKind::kGemmBf16;
  ConvProblem p;
  p.C = call.K, p.K = call.N;
  call.packed_format = pairs ? PackedFormat::kBf16Pairs : PackedFormat::kPanels;
  call.packed_b = packed_data(packed, pairs ? PackedKind::kGemmBf16 : PackedKind::kGemmB, p, call.dtype, op);
}

namespace {

// For the instructions that multiply bfloat16. Nothing is packed where `pairs` is null: the algorithm will refuse, with
// its reasons.
Tensor pack_pairs(const cpu::Bf16Kernels* pairs, const ConvProblem& p, const Tensor& weight, DType dtype) {
  const bool served = pairs && dtype == DType::kBFloat16 && weight.numel() > 0;
  return make_packed(PackedKind::kConv2dBf16, p, dtype, served ? pairs->conv2d_packed_bytes(p) : 0, weight,
                     [&](void* out) { pairs->conv2d_pack(p, view_of(weight, dtype), out); });
}

}  // namespace

Tensor pack_conv2d_weight(Tensor weight, int64_t groups, Text algo) {
  const char* op = "pack_conv2d_weight";
  const DType dtype = dtype_of(weight, op);
  const ConvProblem p = weight_problem(weight, groups, op);
  const auto& k = cpu::kernels();
  if (algo == "winograd_2x2" || algo == "winograd_4x4") {
    require(p.R == 3 && p.S == 3, op, ": expected weight to have 3x3 filters for ", algo, ", but got ", p.R, "x", p.S);
    require(dtype != DType::kFloat64, op, ": expected weight to be of at most 32 bits for ", algo, ", but got float64");
    const bool small = algo == "winograd_2x2";
    const size_t bytes =
        weight.numel() == 0 ? 0 : (small ? k.winograd_2x2_packed_bytes : k.winograd_4x4_packed_bytes)(p);
    return make_packed(
        small ? PackedKind::kWinograd2x2 : PackedKind::kWinograd4x4, p, dtype, bytes, weight,
        [&](void* out) { (small ? k.winograd_2x2_pack : k.winograd_4x4_pack)(p, view_of(weight, dtype), out); });
  }
  if (algo == "amx" || algo == "avx512_bf16") {
    return pack_pairs(algo == "amx" ? k.amx : k.avx512_bf16, p, weight, dtype);
  }
  require(algo.empty() || algo == "implicit_gemm" || algo == "pointwise" || algo == "depthwise", op,
          ": expected algo to be one of winograd_2x2, winograd_4x4, amx, avx512_bf16, implicit_gemm, pointwise, "
          "depthwise, but got '",
          algo, "' (others read no packed weights)");
  const size_t bytes = k.conv2d_packed_bytes && weight.numel() > 0 ? k.conv2d_packed_bytes(p, dtype) : 0;
  return make_packed(PackedKind::kConv2d, p, dtype, bytes, weight,
                     [&](void* out) { k.conv2d_pack(p, view_of(weight, dtype), out); });
}

Tensor pack_upsample_weight(Tensor weight, Ints scale_factor, Ints stride, Ints padding, Ints dilation,
                            int64_t groups) {
  const char* op = "pack_upsample_weight";
  const DType dtype = dtype_of(weight, op);
  ConvProblem p = weight_problem(weight, groups, op);
  require_ints(scale_factor, 2, 1, op, "scale_factor");
  require_ints(stride, 2, 1, op, "stride");
  require_ints(padding, 4, 0, op, "padding");
  require_ints(dilation, 2, 1, op, "dilation");
  p.scale_h = scale_factor[0], p.scale_w = scale_factor[1];
  p.stride_h = stride[0], p.stride_w = stride[1];
  p.pad_top = padding[0], p.pad_bottom = padding[1], p.pad_left = padding[2], p.pad_right = padding[3];
  p.dilation_h = dilation[0], p.dilation_w = dilation[1];
  const cpu::Bf16Kernels* pairs = dtype == DType::kBFloat16 ? cpu::bf16_kernels() : nullptr;
  if (pairs && cpu::fills_tiles(p)) {
    p.scale_h = p.scale_w = 1;
    return pack_pairs(pairs, p, weight, dtype);
  }
  const auto& k = cpu::kernels();
  const size_t bytes =
      k.upsample_phase_packed_bytes && weight.numel() > 0 ? k.upsample_phase_packed_bytes(p, dtype) : 0;
  return make_packed(PackedKind::kUpsample, p, dtype, bytes, weight,
                     [&](void* out) { k.upsample_phase_pack(p, view_of(weight, dtype), out); });
}

Tensor pack_transpose_weight(Tensor weight, Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "pack_transpose_weight";
  const DType dtype = dtype_of(weight, op);
  ConvProblem p = weight_problem(weight, groups, op);
  require_ints(stride, 2, 1, op, "stride");
  require_ints(padding, 2, 0, op, "padding");
  require_ints(dilation, 2, 1, op, "dilation");
  p.stride_h = stride[0], p.stride_w = stride[1];
  p.pad_top = p.pad_bottom = padding[0], p.pad_left = p.pad_right = padding[1];
  p.dilation_h = dilation[0], p.dilation_w = dilation[1];
  const auto& k = cpu::kernels();
  const size_t bytes = k.input_grad_packed_bytes && weight.numel() > 0 ? k.input_grad_packed_bytes(p, dtype) : 0;
  return make_packed(PackedKind::kTranspose, p, dtype, bytes, weight,
                     [&](void* out) { k.input_grad_pack(p, view_of(weight, dtype), out); });
}

Tensor pack_gemm_b(Tensor b, bool transpose_b) {
  const char* op = "pack_gemm_b";
  const DType dtype = dtype_of(b, op);
  require(b.dim() == 2, op, ": expected b to have 2 dimensions, but got ", b.dim());
  GemmCall call;
  call.dtype = dtype;
  call.b = data_of(b);
  const int k_dim = transpose_b ? 1 : 0, n_dim = 1 - k_dim;
  call.K = b.size(k_dim), call.N = b.size(n_dim);
  call.b_stride_k = b.stride(k_dim), call.b_stride_n = b.stride(n_dim);
  ConvProblem p;
  p.C = call.K, p.K = call.N;
  if (const cpu::Bf16Kernels* pairs = dtype == DType::kBFloat16 ? cpu::bf16_kernels() : nullptr) {
    const size_t bytes = b.numel() > 0 ? pairs->gemm_packed_b_bytes(call.K, call.N) : 0;
    return make_packed(PackedKind::kGemmBf16, p, dtype, bytes, b, [&](void* out) { pairs->gemm_pack_b(call, out); });
  }
  const auto& k = cpu::kernels();
  const size_t bytes = k.gemm_packed_b_bytes && b.numel() > 0 ? k.gemm_packed_b_bytes(call.K, call.N, dtype) : 0;
  return make_packed(PackedKind::kGemmB, p, dtype, bytes, b, [&](void* out) { k.gemm_pack_b(call, out); });
}

}  // namespace fastconv::ops
