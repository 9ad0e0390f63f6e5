// SPDX-License-Identifier: Apache-2.0
// Texts of packing: the index of a checkpoint, and what a packed file says about a layer.
#include "formats/checkpoint_files.h"
#include "formats/pack_plan.h"
#include "fuzz/fuzz_target.h"

using namespace tokamak;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(fuzz::text_of(data, size));
    fuzz::allow_errors([&] {
        for (const auto& [name, file] : formats::parse_checkpoint_index(text, "index"))
            fuzz::require(!file.empty() && file.find('/') == std::string::npos, "a shard lies beside the index");
    });
    fuzz::allow_errors([&] {
        const PackedLayer layer = formats::parse_layer("file", 3, text);
        fuzz::require(layer.first_expert + layer.num_experts <= layer.total_experts, "experts lie within the layer");
        const PackedLayer again = formats::parse_layer("file", 3, formats::describe_layer(layer));
        fuzz::require(again.gate_up_layout == layer.gate_up_layout && again.down_layout == layer.down_layout,
                      "writing keeps the layer");
    });
    return 0;
}
