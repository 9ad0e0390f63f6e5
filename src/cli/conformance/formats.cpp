// SPDX-License-Identifier: Apache-2.0
// Decoding of weights and KV rows. The weights go through the packed layout, as the kernels see them.
#include "cli/conformance/compare.h"
#include "cli/conformance/runners.h"
#include "tokamak/kv_format.h"
#include "tokamak/weight_format.h"

namespace tokamak::cli::conformance {
namespace {

/// All leading dimensions as rows: [rows, width].
Tensor as_rows(const Tensor& tensor, const char* name) {
    if (tensor.rank < 1) broken("input \"{}\" is {}, expected at least one dimension", name, to_string(tensor));
    const std::int64_t width = tensor.size(tensor.rank - 1);
    std::int64_t rows = 1;
    for (int d = 0; d + 1 < tensor.rank; ++d) rows *= tensor.size(d);
    return tensor.reshape({rows, width});
}

/// Packs a matrix, decodes it again into f32 [rows, cols].
OwnedTensor decode(const WeightSpec& spec, const Tensor& values, const Tensor& scales, std::int64_t cols) {
    const std::int64_t rows = values.size(0);
    const PackedLayout layout = PackedLayout::make(spec, rows, cols, /*gate_up=*/false);
    const OwnedTensor packed = OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(layout.matrix_bytes)});
    pack(layout, {spec, rows, cols, values, scales}, RowOrder::plain, {packed.as<std::byte>(), layout.matrix_bytes});
    OwnedTensor decoded = OwnedTensor::allocate(DType::f32, {rows, cols});
    for (std::int64_t r = 0; r < rows; ++r)
        decode_packed_row(layout, {packed.as<const std::byte>(), layout.matrix_bytes}, packed_row(layout, r), 0, cols,
                          decoded.as<float>() + r * cols);
    return decoded;
}

/// f32 values as an output in the dtype that the case expects.
void produce_floats(CaseContext& context, const std::string& name, const Tensor& values) {
    if (!context.wants(name)) return;
    const OwnedTensor rounded = OwnedTensor::allocate(context.expected_dtype(name, DType::f32), {values.elements()});
    for (std::int64_t i = 0; i < values.elements(); ++i) set_element(rounded, i, values.as<float>()[i]);
    context.produce(name, rounded);
}

}  // namespace

void run_dequant_int4(CaseContext& context) {
    const Tensor values = as_rows(context.host_input("packed"), "packed");
    const Tensor scales = as_rows(context.host_input("scale"), "scale");
    const WeightSpec spec = WeightSpec::int4(static_cast<int>(context.integer("group_size")), scales.dtype);
    if (const Support known = valid(spec); !known) skip("int4 weights: {}", known.reason);
    const OwnedTensor decoded = decode(spec, values, scales, values.size(1) * 8);
    produce_floats(context, "w_bf16", decoded);
    produce_floats(context, "w_fp32", decoded);
}

void run_dequant_mxfp4(CaseContext& context) {
    const Tensor values = as_rows(context.host_input("packed"), "packed");
    const Tensor scales = as_rows(context.host_input("scale"), "scale");
    if (context.integer_or("group_size", 32) != 32) skip("mxfp4 groups other than 32");
    produce_floats(context, "out", decode(WeightSpec::mxfp4(), values, scales, values.size(1) * 2));
}

void run_dequant_fp8_rows(CaseContext& context) {
    const std::int64_t nope = context.integer_or("nope_dim", 448);
    const std::int64_t rope = context.integer_or("rope_dim", 64);
    const std::int64_t block = context.integer_or("quant_block", 64);
    if (nope != 448 || rope != 64 || block != 64)
        skip("rows of {} + {} values in blocks of {}; offered are 448 + 64 in blocks of 64", nope, rope, block);
    const Tensor values = as_rows(context.host_input("value_bytes"), "value_bytes");
    const Tensor scales = as_rows(context.host_input("scale_bytes"), "scale_bytes");
    const std::int64_t rows = values.size(0);
    const KvCacheShape shape = kv_cache_shape(KvFormat::fp8_split, 512);
    if (values.size(1) != shape.values_row_bytes || scales.size(1) != shape.scales_row_bytes || scales.size(0) != rows)
        broken("value bytes {} and scale bytes {}, expected rows of {} and {} bytes", to_string(values),
               to_string(scales), shape.values_row_bytes, shape.scales_row_bytes);
    const KvCache cache{KvFormat::fp8_split, 512, 1, values.reshape({rows, 1, shape.values_row_bytes}),
                        scales.reshape({rows, 1, shape.scales_row_bytes})};
    const OwnedTensor decoded = OwnedTensor::allocate(DType::f32, {rows, 512});
    for (std::int64_t r = 0; r < rows; ++r) decode_kv_row(cache, r, decoded.as<float>() + r * 512);
    produce_floats(context, "out", decoded);
}

}  // namespace tokamak::cli::conformance
