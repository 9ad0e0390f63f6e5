// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/targets.h"

#include <span>

namespace tokamak::cli::bench {
namespace {

struct Entry {
    std::string_view shape;
    std::string_view format;
    std::int64_t tokens;
    double best;  ///< 0: none known
    const char* who;
    double must;
    double aim;
};

constexpr const char* kMarlin = "Marlin MoE with its helper launches";
constexpr const char* kTriton = "triton_kernels";
constexpr const char* kMonomoe = "flashinfer monomoe";
constexpr const char* kTorch = "torch._grouped_mm, GEMMs alone";
constexpr const char* kFlash = "FlashMLA";

/// Whole layers.
constexpr Entry kMoe[] = {
    {"kimi-k2-e48", "int4_g32", 1, 83, kMarlin, 58, 50},
    {"kimi-k2-e48", "int4_g32", 8, 300, kMarlin, 245, 220},
    {"kimi-k2-e48", "int4_g32", 64, 440, kMarlin, 330, 287},
    {"gpt-oss-120b", "mxfp4", 1, 48, kTriton, 24, 17},
    {"gpt-oss-120b", "mxfp4", 8, 156, kTriton, 108, 95},
    {"gpt-oss-120b", "mxfp4", 64, 520, kTriton, 410, 355},
    {"v4-flash-tp4", "mxfp4", 1, 38, kMarlin, 15, 10},
    {"v4-flash-tp4", "mxfp4", 8, 90, kMarlin, 50, 40},
    {"v4-flash-tp4", "mxfp4", 64, 299, kMarlin, 200, 165},
    {"qwen3-30b-a3b", "int4_g128", 1, 29, "Marlin MoE, group 32", 14, 9.5},
    {"qwen3-30b-a3b", "int4_g128", 8, 70, "Marlin MoE, group 32", 44, 35},
    {"qwen3-30b-a3b", "int4_g128", 64, 138, "Marlin MoE, group 32", 95, 78},
    {"dsv3-tp8", "int4_g32", 1, 33, kMarlin, 16, 11},
    {"dsv3-tp8", "int4_g32", 8, 87, kMarlin, 58, 47},
    {"dsv3-tp8", "int4_g32", 64, 277, kMarlin, 200, 170},
    {"qwen3.5-35b", "fp8_block", 1, 20.8, kMonomoe, 15, 11},
    {"qwen3.5-35b", "fp8_block", 8, 65, kMonomoe, 54, 48},
    {"qwen3.5-35b", "fp8_block", 64, 0, "", 195, 172},
    {"dsv3-e32", "fp8_block", 1, 0, "", 98, 87},
    {"dsv3-e32", "fp8_block", 8, 0, "", 325, 305},
    {"dsv3-e32", "fp8_block", 64, 0, "", 370, 340},
    {"dsv3-e32", "nvfp4", 1, 0, "", 58, 50},
    {"dsv3-e32", "nvfp4", 8, 0, "", 195, 174},
    {"dsv3-e32", "nvfp4", 64, 0, "", 240, 195},
    {"qwen3-30b-a3b", "bf16", 1, 50, kTorch, 26, 21},
    {"qwen3-30b-a3b", "bf16", 8, 206, kTorch, 132, 120},
    {"qwen3-30b-a3b", "bf16", 64, 420, kTorch, 290, 280},
};

constexpr const char* kGemms = "DeepGEMM or torch, GEMMs alone";

/// Whole layers with many tokens.
constexpr Entry kPrefill[] = {
    {"dsv3-ep8", "int4_g32", 512, 406, kMarlin, 230, 195},
    {"dsv3-ep8", "int4_g32", 1024, 600, kMarlin, 290, 230},
    {"dsv3-ep8", "int4_g32", 2048, 1004, kMarlin, 420, 330},
    {"dsv3-ep8", "int4_g32", 4096, 0, "", 840, 670},
    {"dsv3-ep8", "int4_g32", 16384, 0, "", 2670, 2330},
    {"dsv3-ep8", "nvfp4", 512, 406, kMarlin, 230, 195},
    {"dsv3-ep8", "nvfp4", 1024, 600, kMarlin, 290, 230},
    {"dsv3-ep8", "nvfp4", 2048, 1004, kMarlin, 420, 330},
    {"dsv3-ep8", "nvfp4", 4096, 0, "", 840, 670},
    {"dsv3-ep8", "nvfp4", 16384, 0, "", 2670, 2330},
    {"dsv3-ep8", "fp8_block", 512, 372, kGemms, 360, 335},
    {"dsv3-ep8", "fp8_block", 1024, 0, "", 390, 345},
    {"dsv3-ep8", "fp8_block", 2048, 395, kGemms, 420, 360},
    {"dsv3-ep8", "fp8_block", 4096, 492, kGemms, 530, 425},
    {"dsv3-ep8", "fp8_block", 16384, 1283, kGemms, 1520, 1400},
    {"dsv3-ep8", "int4_g32_a8", 16384, 0, "", 1900, 1500},
    {"dsv3-ep8", "mxfp4_a8", 16384, 0, "", 1900, 1500},
    {"dsv3-ep8", "bf16", 512, 704, kGemms, 720, 650},
    {"dsv3-ep8", "bf16", 1024, 0, "", 740, 660},
    {"dsv3-ep8", "bf16", 2048, 695, kGemms, 760, 680},
    {"dsv3-ep8", "bf16", 4096, 832, kGemms, 860, 722},
    {"dsv3-ep8", "bf16", 16384, 2255, kGemms, 2500, 2350},
    {"gpt-oss-120b", "mxfp4", 256, 599, kTriton, 440, 400},
    {"gpt-oss-120b", "mxfp4", 1024, 1056, kTriton, 620, 480},
    {"gpt-oss-120b", "mxfp4", 4096, 0, "", 1810, 1480},
    {"gpt-oss-120b", "mxfp4", 16384, 0, "", 6040, 5260},
    {"qwen3-30b-a3b", "bf16", 256, 412, kGemms, 320, 290},
    {"qwen3-30b-a3b", "bf16", 1024, 407, kGemms, 370, 300},
    {"qwen3-30b-a3b", "bf16", 4096, 750, kGemms, 735, 620},
    {"qwen3-30b-a3b", "bf16", 16384, 0, "", 2290, 2030},
};

constexpr Entry kMla[] = {
    {"v32-h128", "fp8_656", 1, 17.4, kFlash, 10, 7},
    {"v32-h128", "fp8_656", 8, 26.1, kFlash, 18, 13},
    {"v32-h128", "fp8_656", 64, 93, kFlash, 78, 64},
    {"v32-h128", "fp8_656", 128, 182, kFlash, 150, 122},
    {"v32-h64", "fp8_656", 1, 17.8, kFlash, 9, 6.5},
    {"v32-h64", "fp8_656", 8, 21, kFlash, 15, 10.5},
    {"v32-h64", "fp8_656", 64, 0, "", 52, 36},
    {"v32-h64", "fp8_656", 128, 113, kFlash, 88, 64},
    {"v32-h16", "fp8_656", 1, 17, "FlashMLA, padded to 64 heads", 8, 6},
    {"v32-h16", "fp8_656", 8, 0, "", 12, 8},
    {"v32-h16", "fp8_656", 64, 0, "", 38, 31},
    {"v32-h16", "fp8_656", 128, 0, "", 68, 57},
    {"v4-h128", "fp8_584", 1, 14.1, kFlash, 9, 6.5},
    {"v4-h128", "fp8_584", 8, 19.4, kFlash, 13, 9.5},
    {"v4-h128", "fp8_584", 64, 53, kFlash, 45, 36},
    {"v4-h128", "fp8_584", 128, 103, kFlash, 82, 68},
    {"v4-h64", "fp8_584", 1, 13.0, kFlash, 8, 5.5},
    {"v4-h64", "fp8_584", 8, 14.7, kFlash, 10, 7},
    {"v4-h64", "fp8_584", 64, 43.7, kFlash, 22, 14},
    {"v4-h64", "fp8_584", 128, 45.4, kFlash, 34, 24},
    {"v32-h128", "bf16", 1, 60, "FlashMLA prefill", 10, 7.5},
    {"v32-h128", "bf16", 8, 56, "FlashMLA prefill", 19, 14},
    {"v32-h128", "bf16", 64, 59, "FlashMLA prefill", 60, 57},
    {"v32-h128", "bf16", 128, 0, "", 120, 112},
};

std::optional<Target> find(std::span<const Entry> entries, std::string_view shape, std::string_view format,
                           std::int64_t tokens) {
    for (const Entry& entry : entries) {
        if (entry.shape != shape || entry.format != format || entry.tokens != tokens) continue;
        Target target{std::nullopt, entry.who, entry.must, entry.aim};
        if (entry.best > 0) target.best_public = entry.best;
        return target;
    }
    return std::nullopt;
}

}  // namespace

std::optional<Target> moe_target(std::string_view shape, std::string_view format, std::int64_t tokens) {
    return find(kMoe, shape, format, tokens);
}

std::optional<double> from_logits_target(std::string_view shape, std::string_view format, std::int64_t tokens) {
    if (shape != "dsv3-tp8" || format != "int4_g32") return std::nullopt;
    if (tokens == 8) return 1.5;
    if (tokens == 64) return 3.0;
    return std::nullopt;
}

std::optional<Target> prefill_target(std::string_view shape, std::string_view format, std::int64_t tokens) {
    return find(kPrefill, shape, format, tokens);
}

std::optional<Target> mla_target(std::string_view shape, std::string_view format, std::int64_t tokens) {
    return find(kMla, shape, format, tokens);
}

}  // namespace tokamak::cli::bench
