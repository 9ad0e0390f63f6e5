// SPDX-License-Identifier: Apache-2.0
// What a runner of conformance cases works with: the inputs of one case, checked and on the device, its parameters, and
// a place for what it produced.
#pragma once

#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cli/conformance/manifest.h"
#include "core/throw.h"
#include "tokamak/checkpoint.h"
#include "tokamak/plan.h"

namespace tokamak::cli::conformance {

/// The case itself is wrong: a missing tensor, a parameter of the wrong kind, sizes that contradict each other.
struct BrokenCase : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The case asks for something that is not offered; the text says what.
struct SkippedCase : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void broken(fmt::format_string<Args...> text, Args&&... args) {
    throw BrokenCase(fmt::format(text, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void skip(fmt::format_string<Args...> text, Args&&... args) {
    throw SkippedCase(fmt::format(text, std::forward<Args>(args)...));
}

/// One tensor that a runner computed, in host memory.
struct Produced {
    std::string name;
    OwnedTensor tensor;
    std::string note;             ///< how it came about, where an output is computed in two ways
    std::vector<bool> dead_rows;  ///< rows of dimension 0 that had nothing to attend to
};

class CaseContext {
  public:
    /// Opens the file and reads every expected output, so that nothing runs for a case that cannot be judged.
    CaseContext(const Case& the_case, const std::string& folder, Device device);

    [[nodiscard]] Device device() const noexcept { return device_; }
    [[nodiscard]] const Case& description() const noexcept { return case_; }

    [[nodiscard]] bool has(const std::string& input) const { return case_.inputs.count(input) > 0; }
    [[nodiscard]] bool wants(const std::string& output) const { return case_.outputs.count(output) > 0; }
    /// dtype in which an output is expected, or `otherwise` if it is not.
    [[nodiscard]] DType expected_dtype(const std::string& output, DType otherwise) const;

    /// An input on the device, with `rank` dimensions (-1: any). Throws BrokenCase if it is absent or not as declared.
    Tensor input(const std::string& name, int rank = -1);
    /// As above; an absent tensor if the case has none of that name.
    Tensor optional_input(const std::string& name, int rank = -1);
    /// An input in host memory, aligned.
    Tensor host_input(const std::string& name, int rank = -1);
    /// Any floating-point input as f32 on the device.
    Tensor input_as_f32(const std::string& name);
    /// An expected output or aux tensor in host memory (unaligned).
    [[nodiscard]] Tensor expected(const TensorRef& tensor) const;

    [[nodiscard]] std::int64_t integer(const std::string& param, std::int64_t low = 0,
                                       std::int64_t high = std::numeric_limits<int>::max()) const;
    [[nodiscard]] std::int64_t integer_or(const std::string& param, std::int64_t otherwise) const;
    [[nodiscard]] double number(const std::string& param) const;
    /// Null and absent alike give `otherwise`.
    [[nodiscard]] double number_or(const std::string& param, double otherwise) const;
    [[nodiscard]] bool boolean_or(const std::string& param, bool otherwise) const;
    /// Throws BrokenCase if the case has this parameter with another value than the tensors' sizes say.
    void agree(const std::string& param, std::int64_t actual) const;

    /// Device memory that lives as long as the context and holds 0xFF: NaN and -1.
    Tensor allocate(DType dtype, std::span<const std::int64_t> shape);
    Tensor allocate(DType dtype, std::initializer_list<std::int64_t> shape) {
        return allocate(dtype, std::span<const std::int64_t>(shape.begin(), shape.size()));
    }
    /// A copy on the device of a contiguous tensor in host memory; lives as long as the context.
    Tensor to_device(const Tensor& host);

    /// Plans and runs an operator in a workspace that holds 0xFF, and waits for it.
    template <class Problem, class Args>
    void run_operator(const Problem& problem, const Args& args) {
        const auto plan = make_plan(problem, device_);
        const Tensor memory = allocate(DType::u8, {static_cast<std::int64_t>(plan.workspace().bytes)});
        run(plan, args, Workspace{memory.data, memory.bytes(), device_}, Stream{});
        synchronize(device_);
    }

    /// Hands over a result on the device (or in host memory); the context copies it.
    void produce(const std::string& name, const Tensor& tensor, std::string note = {},
                 std::vector<bool> dead_rows = {});
    [[nodiscard]] const std::vector<Produced>& produced() const noexcept { return produced_; }

  private:
    [[nodiscard]] Tensor in_file(const TensorRef& tensor) const;
    [[nodiscard]] const TensorRef& input_ref(const std::string& name) const;
    [[nodiscard]] const nlohmann::json* find_param(const std::string& name) const;

    const Case& case_;
    SafetensorsFile file_;
    Device device_;
    std::size_t allocated_ = 0;
    std::list<OwnedTensor> memory_;
    std::vector<Produced> produced_;
};

}  // namespace tokamak::cli::conformance
