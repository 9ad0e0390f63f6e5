// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/preset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "cli/bench/checkpoint_layer.h"
#include "cli/bench/mla_decode.h"
#include "cli/common.h"
#include "cli/shapes.h"
#include "core/throw.h"
#include "formats/synthetic.h"

namespace tokamak::cli::bench {
namespace {

/// A published layer, with fewer experts than the model has.
struct PresetLayer {
    const char* shape;
    const char* name;
    CheckpointLayout layout;
    int experts;
};

constexpr PresetLayer kLayers[] = {
    {"gpt-oss-120b", "gpt-oss-e8", CheckpointLayout::gpt_oss, 8},
    {"kimi-k2-e48", "kimi-k2-e16", CheckpointLayout::compressed_tensors, 16},
    {"dsv3-e32", "dsv3-e16", CheckpointLayout::deepseek_fp8, 16},
};

struct PresetAttention {
    const char* shape;
    KvFormat format;
};

constexpr PresetAttention kAttention[] = {{"v32-h128", KvFormat::fp8_656}, {"v4-h64", KvFormat::fp8_584}};

/// Where checkpoint files are made: the folder to keep, or one that goes away with this object.
class WorkFolder {
  public:
    explicit WorkFolder(const std::string& keep) : keep_(!keep.empty()) {
        if (keep_) {
            path_ = keep;
            std::error_code error;
            std::filesystem::create_directories(path_, error);
            if (error) fail(ErrorCode::io, "{}: cannot be made: {}", printable(path_), error.message());
            return;
        }
        std::string name = (std::filesystem::temp_directory_path() / "tokamak-bench-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) fail(ErrorCode::io, "{}: cannot be made", name);
        path_ = name;
    }
    ~WorkFolder() {
        std::error_code ignored;
        if (!keep_) std::filesystem::remove_all(path_, ignored);
    }
    WorkFolder(const WorkFolder&) = delete;
    WorkFolder& operator=(const WorkFolder&) = delete;

    [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name + ".safetensors"; }
    /// A file that was read is needed no longer, unless all are kept.
    void done_with(const std::string& file) const {
        std::error_code ignored;
        if (!keep_) std::filesystem::remove(file, ignored);
    }

  private:
    bool keep_;
    std::string path_;
};

/// Marks what a smoke test ran: nobody should take its times for those of the model.
constexpr const char* kTiny = "-tiny";

/// Sizes of a smoke test: a layer of every format within milliseconds.
MoeShape shrink(MoeShape shape) {
    shape.name += kTiny;
    shape.hidden = 256;
    shape.intermediate = 128;
    return shape;
}

MlaShape shrink(MlaShape shape) {
    shape.name += kTiny;
    shape.heads = 4;
    for (MlaPoolShape& pool : shape.pools) {
        pool.top_k = 32;
        pool.page_size = 16;
    }
    return shape;
}

void run_layer(Report& report, const PresetLayer& preset, const WorkFolder& folder) {
    const MoeShape published = moe_shape(preset.shape);
    const MoeShape shape = report.settings().quick ? shrink(published) : published;
    const std::string path = folder.file(preset.name);
    report.progress(fmt::format("{}: writing {}", preset.name, path));
    formats::write_synthetic_layer(path, {.layout = preset.layout,
                                          .experts = preset.experts,
                                          .hidden = shape.hidden,
                                          .intermediate = shape.intermediate});
    report.progress(fmt::format("{}: loading and packing", preset.name));
    MoeLayer layer = load_layer(path, 0, {});
    folder.done_with(path);
    layer.name = report.settings().quick ? std::string(preset.name) + kTiny : preset.name;
    layer.activation = shape.activation;
    layer.routing = shape.routing;
    layer.routing.top_k = shape.top_k;
    run_moe_layer(report, layer);
}

}  // namespace

void run_decode_preset(Report& report) {
    const WorkFolder folder(report.settings().keep_folder);
    for (const PresetLayer& layer : kLayers) run_layer(report, layer, folder);
    for (const PresetAttention& attention : kAttention) {
        const MlaShape& published = mla_shape(attention.shape);
        run_mla_decode(report, report.settings().quick ? shrink(published) : published, attention.format);
    }
}

}  // namespace tokamak::cli::bench
