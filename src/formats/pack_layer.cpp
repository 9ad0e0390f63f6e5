// SPDX-License-Identifier: Apache-2.0
#include "formats/pack_layer.h"

#include <atomic>
#include <cstring>

#include "core/throw.h"
#include "formats/compare_weights.h"
#include "formats/parallel.h"

namespace tokamak::formats {
namespace {

/// Bytes that need no initial value.
struct Buffer {
    explicit Buffer(std::size_t bytes) : size(bytes), data(new std::byte[bytes]) {}
    [[nodiscard]] std::span<std::byte> span() const noexcept { return {data.get(), size}; }

    std::size_t size;
    std::unique_ptr<std::byte[]> data;
};

/// The layer opened again: what the plan knows of it is not kept for all layers at once.
struct Source {
    explicit Source(const LayerJob& job)
        : reader(layer_reader(job.plan.source, job.layer.sizes.layer)),
          weights(read_layer(reader, job.layer.sizes.source, job.layer.sizes.first_expert, job.layer.sizes.num_experts,
                             job.layer.zeros)) {}

    LayerReader reader;
    LayerWeights weights;
};

std::uint64_t place(std::uint64_t begin, std::int64_t index, std::size_t bytes) noexcept {
    return begin + static_cast<std::uint64_t>(index) * bytes;
}

/// Checksum of the two matrices of one expert.
std::uint64_t expert_sum(std::int64_t index, std::span<const std::byte> gate_up, std::span<const std::byte> down) {
    const auto seed = static_cast<std::uint64_t>(index) + 1;
    return checksum(down.data(), down.size(), checksum(gate_up.data(), gate_up.size(), seed));
}

/// The small tensors of a layer as the file holds them, by name and place.
struct SmallTensor {
    const char* name;
    std::uint64_t offset;
    std::string bytes;
};

std::string stored_bytes(const LayerReader& reader, const StoredTensor& stored) {
    const Window window = reader.window(stored);
    return {reinterpret_cast<const char*>(window.data), stored.shape.bytes()};
}

std::vector<SmallTensor> small_tensors(const LayerJob& job, const Source& source) {
    const PackedLayer& sizes = job.layer.sizes;
    const LayerWeights& weights = source.weights;
    std::vector<SmallTensor> result;
    if (weights.router_weight)
        result.push_back(
            {"router_weight", job.layer.router_weight, stored_bytes(source.reader, weights.router_weight)});
    if (weights.router_bias)
        result.push_back({"router_bias", job.layer.router_bias, stored_bytes(source.reader, weights.router_bias)});
    SmallTensor gate_up{"gate_up_bias", job.layer.gate_up_bias, {}};
    SmallTensor down{"down_bias", job.layer.down_bias, {}};
    for (const ExpertWeights& expert : weights.experts) {
        if (expert.gate_up_bias) {
            std::string slice(static_cast<std::size_t>(4 * sizes.intermediate), '\0');
            slice_gate_up_bias(source.reader.window(expert.gate_up_bias).data, job.layer.slice(),
                               reinterpret_cast<std::byte*>(slice.data()));
            gate_up.bytes += slice;
        }
        if (expert.down_bias) {
            // The ranks' results are added, so only one of them may add the bias.
            const std::string bias = stored_bytes(source.reader, expert.down_bias);
            down.bytes += sizes.first_intermediate == 0 ? bias : std::string(bias.size(), '\0');
        }
    }
    for (SmallTensor* tensor : {&gate_up, &down})
        if (!tensor->bytes.empty()) result.push_back(std::move(*tensor));
    return result;
}

std::uint64_t small_sum(const std::vector<SmallTensor>& tensors) {
    std::uint64_t sum = 0;
    for (const SmallTensor& tensor : tensors) sum = checksum(tensor.bytes.data(), tensor.bytes.size(), sum);
    return sum;
}

/// The same tensors as the output has them.
std::vector<SmallTensor> read_small(const LayerJob& job, std::vector<SmallTensor> tensors) {
    for (SmallTensor& tensor : tensors) job.output.read_at(tensor.offset, tensor.bytes.data(), tensor.bytes.size());
    return tensors;
}

/// Packed bytes of one expert in the output.
struct StoredExpert {
    StoredExpert(const LayerJob& job, std::int64_t index)
        : gate_up(job.layer.sizes.gate_up_layout.matrix_bytes), down(job.layer.sizes.down_layout.matrix_bytes) {
        job.output.read_at(place(job.layer.gate_up, index, gate_up.size), gate_up.data.get(), gate_up.size);
        job.output.read_at(place(job.layer.down, index, down.size), down.data.get(), down.size);
    }

    Buffer gate_up, down;
};

[[noreturn]] void differs(const LayerJob& job, std::int64_t index, const char* what, const std::string& where) {
    fail(ErrorCode::parse, "{}: layer {}, expert {}, {}: differs from {}: {}", job.output.path(), job.layer.sizes.layer,
         job.layer.sizes.first_expert + index, what, job.plan.source->path(), where);
}

void verify_expert(const LayerJob& job, const Source& source, std::int64_t index) {
    const StoredExpert stored(job, index);
    const PackedLayer& sizes = job.layer.sizes;
    const LoadedExpert loaded = load_expert(source.reader, source.weights.experts[static_cast<std::size_t>(index)]);
    const ExpertViews views = slice_of(loaded, job.layer.slice());
    const MatrixMemory gate(sizes.spec, views.gate.rows, sizes.hidden);
    if (views.up) {
        const MatrixMemory up(sizes.spec, views.up->rows, sizes.hidden);
        unpack_gate_up(sizes.gate_up_layout, stored.gate_up.span(), gate.matrix, up.matrix);
        if (const auto where = difference(*views.up, up.matrix)) differs(job, index, "up", *where);
    } else {
        unpack(sizes.gate_up_layout, stored.gate_up.span(), RowOrder::gate_up_interleaved, gate.matrix);
    }
    if (const auto where = difference(views.gate, gate.matrix)) differs(job, index, "gate", *where);
    const MatrixMemory down(sizes.spec, sizes.hidden, sizes.intermediate);
    unpack(sizes.down_layout, stored.down.span(), RowOrder::plain, down.matrix);
    if (const auto where = difference(views.down, down.matrix)) differs(job, index, "down", *where);
}

}  // namespace

std::uint64_t write_layer(const LayerJob& job) {
    const Source source(job);
    const PackedLayer& sizes = job.layer.sizes;
    std::atomic<std::uint64_t> sum = 0;
    parallel_for(
        sizes.num_experts,
        [&](std::int64_t index) {
            const LoadedExpert loaded =
                load_expert(source.reader, source.weights.experts[static_cast<std::size_t>(index)]);
            const Buffer gate_up(sizes.gate_up_layout.matrix_bytes), down(sizes.down_layout.matrix_bytes);
            pack_expert(slice_of(loaded, job.layer.slice()), sizes.gate_up_layout, sizes.down_layout, gate_up.span(),
                        down.span());
            job.output.write_at(place(job.layer.gate_up, index, gate_up.size), gate_up.data.get(), gate_up.size);
            job.output.write_at(place(job.layer.down, index, down.size), down.data.get(), down.size);
            sum += expert_sum(index, gate_up.span(), down.span());
            job.done(gate_up.size + down.size);
        },
        job.threads);
    const std::vector<SmallTensor> small = small_tensors(job, source);
    for (const SmallTensor& tensor : small)
        job.output.write_at(tensor.offset, tensor.bytes.data(), tensor.bytes.size());
    return sum + small_sum(small);
}

std::uint64_t sum_layer(const LayerJob& job) {
    std::atomic<std::uint64_t> sum = 0;
    parallel_for(
        job.layer.sizes.num_experts,
        [&](std::int64_t index) {
            const StoredExpert stored(job, index);
            sum += expert_sum(index, stored.gate_up.span(), stored.down.span());
            job.done(stored.gate_up.size + stored.down.size);
        },
        job.threads);
    const Source source(job);
    return sum + small_sum(read_small(job, small_tensors(job, source)));
}

void verify_layer(const LayerJob& job) {
    const Source source(job);
    parallel_for(
        job.layer.sizes.num_experts,
        [&](std::int64_t index) {
            verify_expert(job, source, index);
            job.done(job.layer.sizes.gate_up_layout.matrix_bytes + job.layer.sizes.down_layout.matrix_bytes);
        },
        job.threads);
    const std::vector<SmallTensor> expected = small_tensors(job, source);
    const std::vector<SmallTensor> found = read_small(job, expected);
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (found[i].bytes != expected[i].bytes)
            fail(ErrorCode::parse, "{}: layer {}, {}: differs from {}", job.output.path(), job.layer.sizes.layer,
                 expected[i].name, job.plan.source->path());
}

}  // namespace tokamak::formats
