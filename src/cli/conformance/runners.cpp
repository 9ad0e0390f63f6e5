// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/runners.h"

namespace tokamak::cli::conformance {

const std::map<std::string, Runner>& runners() {
    static const std::map<std::string, Runner> table = {
        {"moe_align_block_size", run_align},
        {"moe_align_block_size_ep", run_align_ep},
        {"fused_moe_int4_w4a16", run_fused_moe_int4},
        {"fused_moe_mxfp4", run_fused_moe_mxfp4},
        {"moe_sum_reduce", run_sum_reduce},
        {"topk_softmax", run_topk_softmax},
        {"sparse_mla_attention", run_sparse_mla_attention},
        {"flash_mla_with_kvcache", run_flash_mla_with_kvcache},
        {"mha_merge_state", run_merge_state},
        {"dsa_indexer", run_indexer},
        {"mxfp4_paged_gather", run_paged_gather},
        {"dequant_w4a16", run_dequant_int4},
        {"dequant_mxfp4", run_dequant_mxfp4},
        {"dequant_fp8_ds_mla", run_dequant_fp8_rows},
    };
    return table;
}

}  // namespace tokamak::cli::conformance
