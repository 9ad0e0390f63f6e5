// SPDX-License-Identifier: Apache-2.0
// Headers of safetensors files: two bytes of data size, then the JSON.
#include "formats/safetensors_header.h"

#include "fuzz/fuzz_target.h"

using namespace tokamak;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const std::uint64_t data_bytes = data[0] | std::uint64_t{data[1]} << 8;
    fuzz::allow_errors([&] {
        const auto header = formats::parse_safetensors_header("file", fuzz::text_of(data + 2, size - 2), data_bytes);
        std::uint64_t covered = 0;
        for (std::size_t i = 0; i < header.tensors.size(); ++i) {
            const formats::TensorEntry& entry = header.tensors[i];
            fuzz::require(entry.begin <= entry.end && entry.end <= data_bytes, "tensors lie within the data");
            fuzz::require(i == 0 || header.tensors[i - 1].name < entry.name, "names ascend");
            covered += entry.end - entry.begin;
            fuzz::allow_errors([&] {
                const Tensor tensor = formats::describe_entry("file", entry, nullptr);
                fuzz::require(tensor.bytes() == entry.end - entry.begin, "a tensor has the bytes of its offsets");
            });
        }
        fuzz::require(covered == data_bytes, "tensors cover the data");
    });
    return 0;
}
