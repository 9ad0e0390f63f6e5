// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/sampled.h"

namespace tokamak::cli::bench {

std::vector<std::int64_t> sampled_tokens(std::int64_t device_tokens) {
    std::vector<std::int64_t> sampled;
    for (const std::int64_t token : {0, 7, 63, 255})
        if (token < device_tokens) sampled.push_back(token);
    return sampled;
}

OwnedTensor rows_to_host(const Tensor& source, const std::vector<std::int64_t>& rows) {
    if (!source) return {};
    OwnedTensor host = OwnedTensor::allocate(source.dtype, {static_cast<std::int64_t>(rows.size()), source.size(1)});
    for (std::size_t r = 0; r < rows.size(); ++r) {
        const Tensor row = source.at(rows[r]);
        copy_bytes(host.view().at(static_cast<std::int64_t>(r)).data, Device::cpu(), row.data, source.device,
                   row.bytes());
    }
    synchronize(source.device);
    return host;
}

}  // namespace tokamak::cli::bench
