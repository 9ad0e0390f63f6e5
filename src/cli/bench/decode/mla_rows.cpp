// SPDX-License-Identifier: Apache-2.0
// The operators that move rows: write_kv, paged_gather, merge_state.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/mla_bench.h"
#include "cli/bench/random_tensor.h"

namespace tokamak::cli::bench {
namespace {

constexpr double kCopyShare = 0.85;  ///< of the copy bandwidth that is due at large sizes
constexpr std::int64_t kPage = 64;
constexpr std::int64_t kCacheRows = std::int64_t{1} << 21;
constexpr std::int64_t kWrites[] = {1, 64, 1 << 18};
constexpr std::int64_t kSequences[] = {1, 64, 128};
constexpr int kSelected = 2048;                              ///< rows of each sequence that are gathered
constexpr std::int64_t kTablePages = 1024;                   ///< of a sequence: 65536 positions
constexpr Distance kOneRounding{3e-3, 5e-3};                 ///< to bf16
constexpr std::int64_t kLargeBytes = std::int64_t{1} << 27;  ///< where bandwidth is what counts

template <class Plan>
Subject row_subject(const DecodeBench& bench, const Plan& plan, const std::string& shape, const std::string& format,
                    std::int64_t tokens, double bytes) {
    Subject subject;
    ResultRow& row = subject.row;
    row.op = plan.op();
    row.shape = shape;
    row.format = format;
    row.tokens = tokens;
    row.routing = "random rows";
    row.variant = plan.row_for(tokens).variant;
    row.decode = DecodeFacts{};
    row.decode->source = plan.row_for(tokens).source;
    row.decode->device_tokens = tokens;
    if (bytes >= static_cast<double>(kLargeBytes))
        row.decode->must_us = bytes / (kCopyShare * bench.copy_gbps()) * 1e-3;
    subject.bytes = [bytes](int) { return bytes; };
    return subject;
}

void measure_modes(DecodeBench& bench, Subject& subject, bool owning) {
    const auto must = subject.row.decode->must_us;
    for (const Mode mode : bench.options().mode_list()) {
        if (mode == Mode::owning && !owning) continue;
        subject.mode = mode;
        subject.row.decode->must_us = mode == Mode::graph ? must : std::nullopt;
        bench.measure(subject);
    }
}

/// A write has no output tensor of its own: what is poisoned and checked is the part of the cache that set 0 writes.
class Write {
  public:
    Write(DecodeBench& bench, const DeviceCache& cache) : bench_(bench), cache_(cache.cache()) {
        const std::int64_t most = *std::max_element(std::begin(kWrites), std::end(kWrites));
        problem_ = {.max_tokens = most, .format = cache_.format, .dim = cache_.dim, .page_size = cache_.page_size};
        const Stream stream = bench.stream().stream();
        kv_ = OwnedTensor::allocate(DType::bf16, {2 * most, cache_.dim}, bench.device());
        fill_normal(kv_.view().data, static_cast<std::size_t>(kv_.view().elements()), 21, stream);
        slots_ = OwnedTensor::allocate(DType::i32, {kCacheRows}, bench.device());
        fill_ascending(slots_.as<std::int32_t>(), static_cast<std::size_t>(kCacheRows), 0, stream);
        synchronize(bench.device(), stream);
    }

    void run() {
        const auto plan = make_plan(problem_, bench_.device());
        for (const std::int64_t tokens : kWrites) {
            const double moved = row_bytes(cache_.format, cache_.dim) + static_cast<double>(cache_.dim) * 2 + 4;
            Subject subject = row_subject(bench_, plan, fmt::format("d{}", cache_.dim), to_string(cache_.format),
                                          tokens, static_cast<double>(tokens) * moved);
            subject.most_calls = static_cast<int>(std::min<std::int64_t>(128, kCacheRows / tokens));
            subject.preallocated = [this, &plan, tokens](int set, Stream stream) {
                mla::run(plan, args(tokens, set), {}, stream);
            };
            subject.bare = [&plan, first = args(tokens, 0)](Stream stream) { mla::run(plan, first, {}, stream); };
            subject.out = Tensor(cache_.values.data, DType::u8, {kPage * kPoisonedRowBytes}, bench_.device());
            subject.check = [this, tokens](const Tensor&) { return check(tokens); };
            subject.checked_tokens = std::min(kPage, tokens);
            measure_modes(bench_, subject, false);
            if (tokens == 64) bench_.measure_host(subject);
        }
    }

  private:
    static constexpr std::int64_t kPoisonedRowBytes = 576;  ///< no more than any format's row
    [[nodiscard]] mla::WriteKvArgs args(std::int64_t tokens, int set) const {
        const std::int64_t sources = kv_.view().size(0) / tokens;
        const std::int64_t width = cache_.dim * 2;
        return {.tokens = tokens,
                .kv = Tensor(kv_.as<std::uint8_t>() + set % sources * tokens * width, DType::bf16, {tokens, cache_.dim},
                             bench_.device()),
                .slots = Tensor(slots_.as<std::int32_t>() + set * tokens, DType::i32, {tokens}, bench_.device()),
                .cache = cache_};
    }
    /// The first rows, bit for bit as the CPU writes them.
    [[nodiscard]] Distance check(std::int64_t tokens) const {
        const std::int64_t count = std::min(kPage, tokens);
        std::vector<std::int64_t> slots;
        for (std::int64_t i = 0; i < count; ++i) slots.push_back(i);
        const HostRows got = rows_to_host(cache_, slots);
        const HostRows want = empty_rows(cache_.format, cache_.dim, count);
        const OwnedTensor kv = rows_to_host(args(tokens, 0).kv, slots);
        const OwnedTensor host_slots = OwnedTensor::allocate(DType::i32, {count});
        for (std::int64_t i = 0; i < count; ++i) host_slots.as<std::int32_t>()[i] = static_cast<std::int32_t>(i);
        mla::write_kv({.max_tokens = count, .format = cache_.format, .dim = cache_.dim, .page_size = 1},
                      {count, {}, kv, host_slots, want.cache});
        const auto same = [](const Tensor& a, const Tensor& b) {
            return !a || std::memcmp(a.data, b.data, a.bytes()) == 0;
        };
        return same(got.values, want.values) && same(got.scales, want.scales) ? Distance{} : Distance{1, 1};
    }

    DecodeBench& bench_;
    KvCache cache_;
    mla::WriteKvProblem problem_;
    OwnedTensor kv_, slots_;
};

class Gather {
  public:
    Gather(DecodeBench& bench, const DeviceCache& cache) : bench_(bench), cache_(cache.cache()) {
        const std::int64_t most = *std::max_element(std::begin(kSequences), std::end(kSequences));
        problem_ = {.max_tokens = most,
                    .top_k = kSelected,
                    .format = cache_.format,
                    .dim = cache_.dim,
                    .page_size = cache_.page_size};
        const Stream stream = bench.stream().stream();
        const Device device = bench.device();
        positions_ = OwnedTensor::allocate(DType::i32, {kSets * most, kSelected}, device);
        fill_uniform(positions_.as<std::int32_t>(), static_cast<std::size_t>(positions_.view().elements()),
                     static_cast<std::int32_t>(kTablePages * kPage), 31, stream);
        table_ = OwnedTensor::allocate(DType::i32, {most, kTablePages}, device);
        fill_uniform(table_.as<std::int32_t>(), static_cast<std::size_t>(table_.view().elements()),
                     static_cast<std::int32_t>(cache_.pages()), 32, stream);
        out_ = OwnedTensor::allocate(DType::bf16, {most, kSelected, cache_.dim}, device);
        synchronize(device, stream);
    }

    void run() {
        const auto plan = make_plan(problem_, bench_.device());
        for (const std::int64_t tokens : kSequences) {
            const double moved = row_bytes(cache_.format, cache_.dim) + static_cast<double>(cache_.dim) * 2 + 4;
            Subject subject = row_subject(bench_, plan, fmt::format("d{}", cache_.dim), to_string(cache_.format),
                                          tokens, static_cast<double>(tokens * kSelected) * moved);
            subject.most_calls = static_cast<int>(std::min<std::int64_t>(64, positions_.view().size(0) / tokens));
            subject.owning = [this, &plan, tokens](int set, Stream stream) {
                return paged_gather(plan, args(tokens, set), {}, stream);
            };
            subject.preallocated = [this, &plan, tokens](int set, Stream stream) {
                mla::PagedGatherArgs call = args(tokens, set);
                call.out = out_;
                mla::run(plan, call, {}, stream);
            };
            mla::PagedGatherArgs first = args(tokens, 0);
            first.out = out_;
            subject.bare = [&plan, first](Stream stream) { mla::run(plan, first, {}, stream); };
            subject.out = out_;
            subject.check = [this](const Tensor& out) { return check(out); };
            subject.limit = kOneRounding;
            subject.checked_tokens = 1;
            measure_modes(bench_, subject, true);
            if (tokens == 64) bench_.measure_host(subject);
        }
    }

  private:
    static constexpr std::int64_t kSets = 8;  ///< of positions for the largest call
    [[nodiscard]] mla::PagedGatherArgs args(std::int64_t tokens, int set) const {
        mla::PagedGatherArgs args;
        args.tokens = tokens;
        args.cache = cache_;
        args.positions = Tensor(positions_.as<std::int32_t>() + set * tokens * kSelected, DType::i32,
                                {tokens, kSelected}, bench_.device());
        args.block_table = table_.view().first_rows(tokens);
        return args;
    }
    /// Some rows of the first sequence.
    [[nodiscard]] Distance check(const Tensor& out) const {
        constexpr std::int64_t kRows = 16;
        const OwnedTensor positions = OwnedTensor::copy_of(args(1, 0).positions);
        const OwnedTensor table = OwnedTensor::copy_of(table_.view().first_rows(1));
        std::vector<std::int64_t> slots;
        for (std::int64_t i = 0; i < kRows; ++i) {
            const std::int64_t position = positions.as<std::int32_t>()[i];
            slots.push_back(table.as<std::int32_t>()[position / kPage] * kPage + position % kPage);
        }
        const HostRows rows = rows_to_host(cache_, slots);
        const OwnedTensor want = OwnedTensor::allocate(DType::f32, {kRows, cache_.dim});
        for (std::int64_t i = 0; i < kRows; ++i) decode_kv_row(rows.cache, i, want.as<float>() + i * cache_.dim);
        return distance(OwnedTensor::copy_of(out.at(0).first_rows(kRows)), widened(want));
    }

    DecodeBench& bench_;
    KvCache cache_;
    mla::PagedGatherProblem problem_;
    OwnedTensor positions_, table_, out_;
};

/// Two partial results of every token; the first token is compared with the CPU.
void bench_merge(DecodeBench& bench, int heads, std::int64_t dim) {
    constexpr std::int64_t kMost = 4096;
    const mla::MergeStateProblem problem{.max_tokens = kMost, .heads = heads, .dim = dim};
    const std::string shape = fmt::format("h{}-d{}", heads, dim);
    if (const Support support = supports(problem, bench.device()); !support)
        return bench.refuse("merge_state", shape, "bf16", support.reason);
    const auto plan = make_plan(problem, bench.device());
    const Device device = bench.device();
    OwnedTensor halves[3];
    for (OwnedTensor& half : halves) half = OwnedTensor::allocate(DType::bf16, {kMost, heads, dim}, device);
    OwnedTensor lse[3];
    for (OwnedTensor& side : lse) side = OwnedTensor::allocate(DType::f32, {kMost, heads}, device);
    for (int side = 0; side < 2; ++side) {
        fill_normal(halves[side].view().data, static_cast<std::size_t>(kMost * heads * dim),
                    static_cast<std::uint32_t>(41 + side), bench.stream().stream());
        fill_bytes(lse[side].view().data, device, static_cast<std::uint8_t>(0x3F + side), lse[side].view().bytes(),
                   bench.stream().stream());
    }
    const auto args = [&](std::int64_t tokens, int set, bool outputs) {
        const auto rows = [&](const OwnedTensor& tensor) {
            Tensor part = tensor.view().first_rows(tokens);
            const std::int64_t at = set * tokens * part.stride(0) * static_cast<std::int64_t>(size_of(part.dtype));
            part.data = static_cast<std::uint8_t*>(part.data) + at;
            return part;
        };
        mla::MergeStateArgs call{tokens, {}, rows(halves[0]), rows(lse[0]), rows(halves[1]), rows(lse[1]), {}, {}};
        if (!outputs) return call;
        call.out = rows(halves[2]);
        call.lse = rows(lse[2]);
        return call;
    };
    for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{64}, kMost / 2}) {
        const double bytes = static_cast<double>(tokens * heads) * (3.0 * 2.0 * static_cast<double>(dim) + 12.0);
        Subject subject = row_subject(bench, plan, shape, "bf16", tokens, bytes);
        subject.row.routing = "none";
        subject.row.decode->must_us.reset();
        subject.most_calls = static_cast<int>(std::min<std::int64_t>(128, kMost / tokens));
        subject.owning = [&plan, &args, tokens](int set, Stream stream) {
            return std::move(merge_state(plan, args(tokens, set, false), {}, stream).out);
        };
        subject.preallocated = [&plan, &args, tokens](int set, Stream stream) {
            mla::run(plan, args(tokens, set, true), {}, stream);
        };
        subject.bare = [&plan, first = args(tokens, 0, true)](Stream stream) { mla::run(plan, first, {}, stream); };
        subject.out = halves[2].view().first_rows(tokens);
        subject.check = [&args](const Tensor& out) {
            const mla::MergeStateArgs one = args(1, 0, false);
            const OwnedTensor sides[] = {OwnedTensor::copy_of(one.out_a), OwnedTensor::copy_of(one.lse_a),
                                         OwnedTensor::copy_of(one.out_b), OwnedTensor::copy_of(one.lse_b)};
            const mla::MergeStateProblem host{
                .max_tokens = 1, .heads = static_cast<int>(one.out_a.size(1)), .dim = one.out_a.size(2)};
            const auto want = merge_state(host, {1, {}, sides[0], sides[1], sides[2], sides[3], {}, {}});
            return distance(OwnedTensor::copy_of(out.first_rows(1)), widened(want.out));
        };
        subject.limit = kOneRounding;
        subject.checked_tokens = 1;
        measure_modes(bench, subject, true);
        if (tokens == 64) bench.measure_host(subject);
    }
}

}  // namespace

void bench_row_operators(DecodeBench& bench, const std::vector<MlaCase>& cases) {
    std::set<std::pair<KvFormat, std::int64_t>> caches;
    std::set<int> heads;
    for (const MlaCase& attention : cases) {
        if (caches.emplace(attention.format, attention.shape->dim).second &&
            (bench.options().wants("write_kv") || bench.options().wants("paged_gather"))) {
            const DeviceCache cache(bench.lane(), attention.format, attention.shape->dim, kPage, kCacheRows);
            if (bench.options().wants("paged_gather")) Gather(bench, cache).run();
            if (bench.options().wants("write_kv")) Write(bench, cache).run();
        }
        if (bench.options().wants("merge_state") && heads.insert(attention.shape->heads).second)
            bench_merge(bench, attention.shape->heads, attention.shape->value_dim);
        bench.save();
    }
}

}  // namespace tokamak::cli::bench
