// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/driver_launch.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "core/throw.h"
#include "cuda/check.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::check;
using LaunchKernel = CUresult (*)(const CUlaunchConfig*, CUfunction, void**, void**);

/// Without a link to the driver's library.
LaunchKernel driver_launch() {
    static const LaunchKernel found = [] {
        void* entry = nullptr;
        cudaDriverEntryPointQueryResult result{};
        check(cudaGetDriverEntryPointByVersion("cuLaunchKernelEx", &entry, 12000, cudaEnableDefault, &result),
              "cudaGetDriverEntryPointByVersion");
        if (entry == nullptr) fail(ErrorCode::device, "the driver has no cuLaunchKernelEx");
        return reinterpret_cast<LaunchKernel>(entry);
    }();
    return found;
}

}  // namespace

const void* launchable(const void* kernel) {
    (void)driver_launch();  // allocates, which a call must not
    cudaFunction_t function = nullptr;
    check(cudaGetFuncBySymbol(&function, kernel), "cudaGetFuncBySymbol");
    return function;
}

void launch(const KernelLaunch& how, int device, void** parameters, Stream stream) {
    CUlaunchAttribute attributes[2]{};
    unsigned count = 0;
    if (how.cooperative) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        attributes[count++].value.cooperative = 1;
    }
    if (how.early) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attributes[count++].value.programmaticStreamSerializationAllowed = 1;
    }
    CUlaunchConfig config{};
    config.gridDimX = how.ctas;
    config.gridDimY = config.gridDimZ = 1;
    config.blockDimX = how.threads;
    config.blockDimY = config.blockDimZ = 1;
    config.sharedMemBytes = how.shared_bytes;
    config.hStream = stream.handle;
    config.attrs = attributes;
    config.numAttrs = count;
    auto* const function = static_cast<CUfunction>(const_cast<void*>(how.kernel));
    CUresult result = driver_launch()(&config, function, parameters, nullptr);
    if (result == CUDA_ERROR_INVALID_CONTEXT) {  // the thread has not used the device yet
        check(cudaSetDevice(device), "cudaSetDevice");
        result = driver_launch()(&config, function, parameters, nullptr);
    }
    check(static_cast<cudaError_t>(result), "fused_moe launch");  // the runtime has the driver's numbers
}

}  // namespace tokamak::moe::cuda
