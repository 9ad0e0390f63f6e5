// SPDX-License-Identifier: Apache-2.0
// Variants of the kernels of fused_moe: frozen when a plan is made, launched by a call.
#pragma once

#include "moe/cuda/decode_plan.h"
#include "moe/cuda/fused_moe.h"
#include "moe/cuda/grouped/grouped_plan.h"
#include "moe/cuda/single/single_plan.h"
#include "moe/cuda/wide/wide_plan.h"
#include "tokamak/device.h"

namespace tokamak::moe::cuda {

/// Load the kernel and allow it its shared memory. The device is current.
DecodeLaunch freeze(const DecodeInstance& instance, const DecodeVariant& variant, const DeviceInfo& info);
GroupedLaunch freeze(const GroupedVariant& variant, const DecodeArgs& args, const DeviceInfo& info);
WideLaunch freeze(const WideVariant& variant, bool atomic, const DeviceInfo& info);
/// `args` are the problem's.
SingleLaunch freeze(const DecodeInstance& instance, const SingleVariant& variant, const DecodeArgs& args,
                    const DeviceInfo& info);

/// Completes `args`, which are the call's.
void run_decode(const FusedMoeState& state, const DecodeLaunch& choice, DecodeArgs& args, Stream stream);
/// One launch; with one list of routes, one for each pass.
void run_grouped(const FusedMoeState& state, const GroupedLaunch& choice, const DecodeArgs& common,
                 const Workspace& workspace, Stream stream);
/// One launch for each pass; those past the tokens on the device end at once.
void run_wide(const FusedMoeState& state, const WideLaunch& choice, const DecodeArgs& common,
              const Workspace& workspace, Stream stream);
/// One launch for each token.
void run_single(const FusedMoeState& state, const SingleLaunch& choice, const DecodeArgs& common,
                const Workspace& workspace, Stream stream);

}  // namespace tokamak::moe::cuda
