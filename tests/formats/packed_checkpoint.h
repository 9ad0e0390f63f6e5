// SPDX-License-Identifier: Apache-2.0
// Small checkpoints in several files, for packing.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "formats/synthetic.h"
#include "support/temporary_folder.h"
#include "tokamak/packed_file.h"

namespace tokamak::test {

/// One layer of every layout, with sizes that leave parts of tiles and blocks.
inline std::vector<formats::SyntheticLayer> layouts_to_pack() {
    return {{CheckpointLayout::gpt_oss, 0, 3, 96, 160, 32, 1},
            {CheckpointLayout::compressed_tensors, 0, 3, 96, 160, 32, 2},
            {CheckpointLayout::deepseek_fp8, 0, 3, 200, 300, 0, 3},
            {CheckpointLayout::bf16, 0, 3, 100, 33, 0, 4},
            {CheckpointLayout::fp8, 0, 3, 200, 161, 0, 5},
            {CheckpointLayout::deepseek_v4, 0, 3, 96, 160, 0, 6},
            {CheckpointLayout::modelopt_nvfp4, 0, 3, 80, 112, 0, 7},
            {CheckpointLayout::compressed_tensors_nvfp4, 0, 3, 80, 112, 0, 8},
            {CheckpointLayout::awq, 0, 3, 96, 160, 32, 9},
            {CheckpointLayout::gptq, 0, 3, 96, 160, 32, 10}};
}

/// A folder with two layers (3 and 11) whose tensors alternate between two files, and an index.
class ShardedCheckpoint {
  public:
    explicit ShardedCheckpoint(const formats::SyntheticLayer& kind) {
        for (const int number : {3, 11}) {
            formats::SyntheticLayer layer = kind;
            layer.layer = number;
            layer.seed += static_cast<std::uint64_t>(number);
            made_.push_back(make_synthetic_layer(layer));
        }
        for (const formats::SyntheticTensors& made : made_) all_.insert(all_.end(), made.tensors.begin(), made.tensors.end());
        write();
    }

    void write() const {
        std::vector<NamedTensor> shards[2];
        nlohmann::json map;
        for (std::size_t i = 0; i < all_.size(); ++i) {
            shards[i % 2].push_back(all_[i]);
            map[all_[i].name] = name_of(i % 2);
        }
        for (std::size_t i = 0; i < 2; ++i) write_safetensors(folder_.file(name_of(i)), shards[i], {{"format", "pt"}});
        folder_.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
        write_safetensors(folder_.file("whole"), all_);
    }

    [[nodiscard]] std::vector<NamedTensor>& tensors() { return all_; }
    [[nodiscard]] const TemporaryFolder& folder() const { return folder_; }
    [[nodiscard]] std::string shard(std::size_t index) const { return folder_.file(name_of(index)); }
    /// All tensors in one file, for load_experts.
    [[nodiscard]] SafetensorsFile whole() const { return SafetensorsFile::open(folder_.file("whole")); }
    [[nodiscard]] PackRequest request(const std::string& output = "packed") const {
        PackRequest request;
        request.source = folder_.path();
        request.output = folder_.file(output);
        request.verify = true;
        return request;
    }

  private:
    static std::string name_of(std::size_t index) {
        return "model-0000" + std::to_string(index + 1) + "-of-00002.safetensors";
    }

    TemporaryFolder folder_;
    std::vector<formats::SyntheticTensors> made_;
    std::vector<NamedTensor> all_;
};

}  // namespace tokamak::test
