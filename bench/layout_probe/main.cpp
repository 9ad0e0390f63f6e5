// SPDX-License-Identifier: Apache-2.0
// layout_probe OUT.json: share of the read ceiling at which packed 4-bit weights can be streamed, decoded and
// multiplied with 8 tokens. The ceiling is measured in the same process over the same bytes.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "core/build_info.h"
#include "cuda/ceilings/read.h"
#include "cuda/check.h"
#include "cuda/graph.h"
#include "formats/scalar.h"
#include "layout_probe/variants.h"
#include "tokamak/device.h"
#include "tokamak/tensor.h"

namespace {

using namespace tokamak;
using cuda::probe::Launch;
using cuda::probe::ProbeVariant;

constexpr std::size_t kBytes = 2'000'000'000;
constexpr int kRounds = 9;
/// Results go to the rows of one matrix again and again, as those of a decode layer go to a buffer that the L2 holds.
/// Results that spill to memory cost three times their bytes (measured: 2.7% more bytes, 9% more time).
constexpr int kOutStrips = 64;

struct Shape {
    const char* name;
    int tiles;  // of 64 columns
};
constexpr Shape kShapes[] = {{"k7168", 112}, {"k2048", 32}, {"k2880", 45}};

/// One packed tile of random codes and moderate scales, repeated `count` times with fresh codes.
OwnedTensor random_tiles(const ProbeVariant& variant, std::size_t count) {
    std::mt19937_64 random(7);
    const auto tile_bytes = static_cast<std::size_t>(variant.tile_bytes);
    constexpr std::size_t distinct = 4096;  // host-made tiles; copies of them fill the pool
    std::vector<std::uint8_t> host(distinct * tile_bytes);
    for (std::size_t i = 0; i + 8 <= host.size(); i += 8) {
        const std::uint64_t bits = random();
        std::memcpy(&host[i], &bits, 8);
    }
    for (std::size_t tile = 0; tile < distinct; ++tile) {
        for (std::size_t i = 2048; i < tile_bytes; ++i) {
            std::uint8_t& byte = host[tile * tile_bytes + i];
            if (variant.format == WeightFormat::mxfp4)
                byte = static_cast<std::uint8_t>(119 + byte % 6);
            else if (i % 2 == 1)
                byte = 0x3C;  // bf16 scales between 2^-7 and 2^-6
        }
    }
    OwnedTensor pool =
        OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(count * tile_bytes)}, Device::cuda());
    for (std::size_t done = 0; done < count; done += distinct)
        copy_bytes(pool.as<std::uint8_t>() + done * tile_bytes, Device::cuda(), host.data(), Device::cpu(),
                   std::min(distinct, count - done) * tile_bytes);
    synchronize(Device::cuda());
    return pool;
}

OwnedTensor random_tokens(int cols) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<std::uint16_t> host(static_cast<std::size_t>(cols) * 8);
    for (std::uint16_t& value : host) value = scalar::float_to_bf16(normal(random));
    return OwnedTensor::copy_of(Tensor(host.data(), DType::bf16, {8, cols}), Device::cuda());
}

struct Case {
    const ProbeVariant* variant;
    std::vector<float> samples;
};

nlohmann::json measure_shape(const Shape& shape, WeightFormat format, const DeviceInfo& info,
                             const cuda::OwnedStream& stream) {
    std::vector<Case> cases;
    for (const ProbeVariant& variant : cuda::probe::variants())
        if (variant.format == format && shape.tiles % variant.slot_tiles == 0 &&
            static_cast<std::size_t>(variant.shared_bytes(shape.tiles * 64)) <= info.shared_memory_bytes)
            cases.push_back({&variant, {}});
    const auto tile_bytes = static_cast<std::size_t>(cases.front().variant->tile_bytes);
    const int strips = static_cast<int>(kBytes / tile_bytes / static_cast<std::size_t>(shape.tiles));
    const std::size_t bytes = tile_bytes * static_cast<std::size_t>(shape.tiles) * static_cast<std::size_t>(strips);
    const OwnedTensor pool = random_tiles(*cases.front().variant, bytes / tile_bytes);
    const OwnedTensor x = random_tokens(shape.tiles * 64);
    const OwnedTensor out = OwnedTensor::allocate(DType::f32, {kOutStrips, 64, 8}, Device::cuda());

    std::vector<float> ceiling;
    for (int round = 0; round < kRounds; ++round) {  // interleaved, so that clocks and neighbours hit all alike
        ceiling.push_back(ceilings::time_read(pool.as<std::uint8_t>(), bytes, stream));
        for (Case& c : cases) {
            const Launch launch{
                pool.as<std::uint8_t>(), x.view().data,  out.as<float>(), strips, kOutStrips, shape.tiles,
                info.multiprocessors,    stream.stream()};
            c.samples.push_back(cuda::time_once(stream, [&] { c.variant->launch(launch); }));
        }
    }
    const double read_us = cuda::quantiles(ceiling).median;
    nlohmann::json rows = nlohmann::json::array();
    for (const Case& c : cases) {
        const cuda::Quantiles us = cuda::quantiles(c.samples);
        rows.push_back({{"op", "layout_probe"},
                        {"shape", shape.name},
                        {"format", format == WeightFormat::int4 ? "int4_g32" : "mxfp4"},
                        {"tokens", 8},
                        {"variant", c.variant->name},
                        {"us_median", us.median},
                        {"us_p10", us.p10},
                        {"us_p90", us.p90},
                        {"bytes", bytes},
                        {"read_us", read_us},
                        {"ceiling_share", read_us / us.median}});
        fmt::print("{:6} {:16} {:8.1f} us  {:6.0f} GB/s  {:5.1f}% of the read ceiling ({:.0f} GB/s)\n", shape.name,
                   c.variant->name, us.median, static_cast<double>(bytes) / us.median * 1e-3,
                   100.0 * read_us / us.median, static_cast<double>(bytes) / read_us * 1e-3);
    }
    return rows;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        fmt::print(stderr, "usage: layout_probe OUT.json\n");
        return 2;
    }
    try {
        const DeviceInfo& info = device_info(Device::cuda());
        const cuda::OwnedStream stream;
        nlohmann::json result = {{"tokamak", build_info::version()},
                                 {"commit", build_info::commit()},
                                 {"cuda_sources", build_info::cuda_sources_hash()},
                                 {"device", info.name},
                                 {"rows", nlohmann::json::array()}};
        for (const Shape& shape : kShapes)
            for (const WeightFormat format : {WeightFormat::int4, WeightFormat::mxfp4})
                for (const auto& row : measure_shape(shape, format, info, stream)) result["rows"].push_back(row);
        std::ofstream(argv[1]) << result.dump(1) << "\n";
    } catch (const std::exception& error) {
        fmt::print(stderr, "layout_probe: {}\n", error.what());
        return 1;
    }
    return 0;
}
