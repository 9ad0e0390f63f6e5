// SPDX-License-Identifier: Apache-2.0
// One function per operator name of the manifest: it calls the operator with the case's inputs and hands over what came
// out. One table names them all.
#pragma once

#include <map>
#include <string>

#include "cli/conformance/context.h"

namespace tokamak::cli::conformance {

using Runner = void (*)(CaseContext& context);

const std::map<std::string, Runner>& runners();

// moe.cpp
void run_align(CaseContext& context);
void run_align_ep(CaseContext& context);
void run_fused_moe_int4(CaseContext& context);
void run_fused_moe_mxfp4(CaseContext& context);
void run_sum_reduce(CaseContext& context);
void run_topk_softmax(CaseContext& context);

// mla.cpp
void run_sparse_mla_attention(CaseContext& context);
void run_flash_mla_with_kvcache(CaseContext& context);
void run_merge_state(CaseContext& context);
void run_indexer(CaseContext& context);
void run_paged_gather(CaseContext& context);

// formats.cpp
void run_dequant_int4(CaseContext& context);
void run_dequant_mxfp4(CaseContext& context);
void run_dequant_fp8_rows(CaseContext& context);

}  // namespace tokamak::cli::conformance
