// SPDX-License-Identifier: Apache-2.0
// Matrix ceiling: 8192^3 products by cuBLASLt, opened at run time, or our own wgmma loop where it is absent.
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <chrono>
#include <optional>
#include <thread>

#include "core/backend.h"
#include "core/throw.h"
#include "cuda/ceilings/parts.h"
#include "cuda/check.h"

namespace tokamak::ceilings {
namespace {

using cuda::check;

constexpr int kSize = 8192;
constexpr std::size_t kWorkspaceBytes = 64ULL << 20;
constexpr double kFlops = 2.0 * kSize * kSize * kSize;

void check_blas(cublasStatus_t status, const char* what) {
    if (status != CUBLAS_STATUS_SUCCESS)
        fail(ErrorCode::device, "{}: cuBLASLt status {}", what, static_cast<int>(status));
}

/// The few functions needed, found in the library at run time.
struct BlasLt {
    void* library = nullptr;
    const char* name = "";
    decltype(&cublasLtCreate) create = nullptr;
    decltype(&cublasLtDestroy) destroy = nullptr;
    decltype(&cublasLtMatmul) matmul = nullptr;
    decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
    decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
    decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
    decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
    decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;

    template <class F>
    bool find(F& function, const char* symbol) {
        function = reinterpret_cast<F>(dlsym(library, symbol));
        return function != nullptr;
    }
    bool open() {
        for (const char* candidate : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
            library = dlopen(candidate, RTLD_NOW | RTLD_LOCAL);
            name = candidate;
            if (library != nullptr) break;
        }
        return library != nullptr && find(create, "cublasLtCreate") && find(destroy, "cublasLtDestroy") &&
               find(matmul, "cublasLtMatmul") && find(desc_create, "cublasLtMatmulDescCreate") &&
               find(desc_set, "cublasLtMatmulDescSetAttribute") && find(layout_create, "cublasLtMatrixLayoutCreate") &&
               find(preference_create, "cublasLtMatmulPreferenceCreate") &&
               find(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
               find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    }
};

/// c = a^T b with a and b [8192, 8192] of one type, c bf16. Descriptors live as long as the process: measured once.
class Product {
  public:
    Product(const BlasLt& blas, const Context& context, bool fp8) : blas_(blas), context_(context) {
        const std::size_t bytes = static_cast<std::size_t>(kSize) * kSize * (fp8 ? 1 : 2);
        a_ = backend::allocate(context.device, bytes);
        b_ = backend::allocate(context.device, bytes);
        c_ = backend::allocate(context.device, static_cast<std::size_t>(kSize) * kSize * 2);
        workspace_ = backend::allocate(context.device, kWorkspaceBytes);
        fill_operand(a_.get(), bytes, fp8, 1);
        fill_operand(b_.get(), bytes, fp8, 2);

        check_blas(blas.create(&handle_), "cublasLtCreate");
        check_blas(blas.desc_create(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
        const cublasOperation_t transpose = CUBLAS_OP_T;
        check_blas(blas.desc_set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose), "transpose");
        const std::int8_t fast = fp8 ? 1 : 0;
        check_blas(blas.desc_set(operation_, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast), "fast accumulation");
        const cudaDataType_t type = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
        check_blas(blas.layout_create(&operand_, type, kSize, kSize, kSize), "cublasLtMatrixLayoutCreate");
        check_blas(blas.layout_create(&output_, CUDA_R_16BF, kSize, kSize, kSize), "cublasLtMatrixLayoutCreate");
        cublasLtMatmulPreference_t preference = nullptr;
        check_blas(blas.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
        check_blas(blas.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                       sizeof kWorkspaceBytes),
                   "cublasLtMatmulPreferenceSetAttribute");
        int found = 0;
        check_blas(blas.heuristic(handle_, operation_, operand_, operand_, output_, output_, preference, 1, &algorithm_,
                                  &found),
                   "cublasLtMatmulAlgoGetHeuristic");
        if (found == 0) fail(ErrorCode::device, "cuBLASLt has no algorithm for the {} product", fp8 ? "fp8" : "bf16");
    }

    /// TFLOP/s of `count` products in a row.
    double rate(int count) const {
        const float us = cuda::time_once(context_.stream, [&] {
            for (int i = 0; i < count; ++i) multiply();
        });
        return kFlops * count / us * 1e-6;
    }

  private:
    void multiply() const {
        const float one = 1.0F;
        const float zero = 0.0F;
        check_blas(blas_.matmul(handle_, operation_, &one, a_.get(), operand_, b_.get(), operand_, &zero, c_.get(),
                                output_, c_.get(), output_, &algorithm_.algo, workspace_.get(), kWorkspaceBytes,
                                context_.stream.handle()),
                   "cublasLtMatmul");
    }
    void fill_operand(void* data, std::size_t bytes, bool fp8, std::uint32_t seed) const {
        fill(context_, data, bytes, seed);
        make_moderate(context_, data, bytes, fp8);
    }

    const BlasLt& blas_;
    const Context& context_;
    std::shared_ptr<void> a_, b_, c_, workspace_;
    cublasLtHandle_t handle_ = nullptr;
    cublasLtMatmulDesc_t operation_ = nullptr;
    cublasLtMatrixLayout_t operand_ = nullptr;
    cublasLtMatrixLayout_t output_ = nullptr;
    cublasLtMatmulHeuristicResult_t algorithm_{};
};

MatrixRates blas_rates(const BlasLt& blas, const Context& context, bool fp8) {
    const Product product(blas, context, fp8);
    (void)product.rate(3);
    MatrixRates rates;
    std::this_thread::sleep_for(std::chrono::duration<double>(context.options.burst_rest_seconds));
    rates.burst = product.rate(10);
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(context.options.sustained_seconds);
    while (std::chrono::steady_clock::now() < end) rates.sustained = product.rate(200);
    return rates;
}

}  // namespace

void measure_matrix(const Context& context, Ceilings& result) {
    BlasLt blas;
    const bool found = blas.open();
    const auto rates = [&](bool fp8) {
        return found ? blas_rates(blas, context, fp8) : own_matrix_rates(context, fp8);
    };
    const MatrixRates bf16 = rates(false);
    const MatrixRates fp8 = rates(true);
    result.matrix_source = found ? std::string(blas.name) + ", 8192^3" : std::string("own wgmma loop, m64n256");
    result.bf16_tflops_burst = bf16.burst;
    result.bf16_tflops_sustained = bf16.sustained;
    result.fp8_tflops_burst = fp8.burst;
    result.fp8_tflops_sustained = fp8.sustained;
}

}  // namespace tokamak::ceilings
