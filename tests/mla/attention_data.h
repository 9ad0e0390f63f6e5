// SPDX-License-Identifier: Apache-2.0
// One call of sparse_attention: random inputs with everything that must not be read filled with NaN, and its expected
// result in double.
#pragma once

#include <algorithm>
#include <climits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "mla/argument.h"
#include "mla/naive.h"
#include "tokamak/mla/sparse_attention.h"

namespace tokamak::test {

struct PoolCase {
    KvFormat format = KvFormat::bf16;
    std::int64_t pages = 6;
    std::int64_t page_size = 16;
    int top_k = 48;
    bool table = false;
    bool lengths = false;
    double masked = 0.2;        ///< share of columns with an index out of range
    std::int64_t page_gap = 0;  ///< elements between pages
    bool shared_table = false;  ///< one table for all tokens, by row stride 0
    bool odd_scales = false;    ///< fp8_656: f32 scales that are no powers of two
};

enum class Sinks { none, random, mixed_infinities };

struct AttentionCase {
    std::string name;
    std::int64_t tokens = 3;
    int heads = 4;
    std::int64_t dim = 576;
    std::int64_t value_dim = 512;
    std::vector<PoolCase> pools = {PoolCase{}};
    Sinks sinks = Sinks::none;
    DType q_dtype = DType::bf16;
    DType out_dtype = DType::bf16;
    mla::LseConvention convention{};
    bool strided = false;          ///< gaps between rows of q, indices, out, lse
    std::int64_t spare_rows = 0;   ///< rows of the outputs past `tokens`
    bool every_row_empty = false;  ///< no valid column anywhere
    double lse_absolute = 0.0;     ///< allowed of lse at least; 0: what is usual
};
inline void PrintTo(const AttentionCase& c, std::ostream* stream) { *stream << c.name; }

struct AttentionExpected {
    std::vector<double> out, lse, max_logits;
};

class PoolData {
  public:
    PoolData(const PoolCase& c, std::int64_t tokens, std::int64_t dim, bool empty, bool strided, std::mt19937& random);

    [[nodiscard]] mla::KvPoolArgs on(Device device);
    /// (page, row) of every valid column of a token, in column order.
    [[nodiscard]] std::vector<std::pair<std::int64_t, std::int64_t>> selection(std::int64_t token) const;
    /// Whether an index names a row for a token, and which.
    [[nodiscard]] bool resolve(std::int64_t token, std::int64_t index, std::int64_t& page, std::int64_t& row) const;
    [[nodiscard]] mla::KvPool problem() const;
    [[nodiscard]] KvCache host_cache() const;

    PoolCase spec;
    std::int64_t dim;
    Argument values, scales, indices, lengths, block_table;

  private:
    void fill_indices(bool empty, std::mt19937& random);
    void fill_rows(std::mt19937& random);
    void fill_row(std::int64_t page, std::int64_t row, std::mt19937& random);
};

/// Inputs and poisoned outputs of a case.
class AttentionData {
  public:
    explicit AttentionData(const AttentionCase& c, unsigned seed = std::random_device{}());

    [[nodiscard]] mla::SparseAttentionProblem problem(std::int64_t max_tokens = 0) const;
    [[nodiscard]] mla::SparseAttentionArgs args(Device device);
    [[nodiscard]] AttentionExpected expected() const;
    /// Outputs back on the host; fails the test if anything past `rows` rows was written.
    void fetch(std::int64_t rows);

    AttentionCase spec;
    unsigned seed;
    std::vector<PoolData> pools;
    Argument q, sink, out, lse, max_logits;
    float softmax_scale = 0.0F;
};

}  // namespace tokamak::test
