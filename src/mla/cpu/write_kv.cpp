// SPDX-License-Identifier: Apache-2.0
#include "mla/cpu/write_kv.h"

#include <omp.h>

#include "core/check.h"
#include "mla/cpu/convert.h"
#include "mla/cpu/team.h"
#include "mla/paging.h"

namespace tokamak::mla::cpu {
namespace {

std::int64_t slot_of(const Tensor& slots, std::int64_t token) noexcept {
    const std::int64_t offset = token * slots.stride(0);
    return slots.dtype == DType::i64 ? slots.as<std::int64_t>()[offset] : slots.as<std::int32_t>()[offset];
}

/// The thread that writes a slot. Equal slots go to one thread, which takes tokens in order: the last row wins without
/// a lock. Multiplying spreads slots that lie a page apart.
int owner(std::int64_t slot, int threads) noexcept {
    const std::uint64_t mixed = static_cast<std::uint64_t>(slot) * 0x9E3779B97F4A7C15ULL;
    return static_cast<int>((mixed >> 32) % static_cast<std::uint64_t>(threads));
}

}  // namespace

void refuse_bad_slots(const WriteKvArgs& args) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    for (std::int64_t token = 0; token < tokens; ++token) {
        const std::int64_t slot = slot_of(args.slots, token);
        if (slot != kPadding && (slot < 0 || slot >= args.cache.rows()))
            invalid("write_kv: `slots`[{}] is {}, expected 0 to {} or -1 for padding", token, slot,
                    args.cache.rows() - 1);
    }
}

void write_kv(const WriteKvState& state, const WriteKvArgs& args, const Workspace& workspace) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    const std::int64_t rows = args.cache.rows();
    if (tokens == 0) return;
    [[maybe_unused]] const int team = team_size(state.threads, tokens, tokens * state.problem.dim);
#pragma omp parallel num_threads(team)
    {
        const int thread = omp_get_thread_num();
        const int threads = omp_get_num_threads();
        float* const row = state.row(workspace, thread);
        for (std::int64_t token = 0; token < tokens; ++token) {
            const std::int64_t slot = slot_of(args.slots, token);
            if (slot < 0 || slot >= rows || owner(slot, threads) != thread) continue;
            load_row(args.kv, token * args.kv.stride(0), state.problem.dim, row);
            encode_kv_row(args.cache, slot, row, state.problem.scale);
        }
    }
}

}  // namespace tokamak::mla::cpu
