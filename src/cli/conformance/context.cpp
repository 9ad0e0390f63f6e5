// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/context.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "cli/conformance/compare.h"

namespace tokamak::cli::conformance {
namespace {

/// Sizes come from the file: a case that asks for more than this is refused before it exhausts the machine.
constexpr std::size_t kMemoryLimit = std::size_t{8} << 30;

SafetensorsFile open(const std::string& path) {
    try {
        return SafetensorsFile::open(path);
    } catch (const Error& error) {
        throw BrokenCase(error.what());
    }
}

bool same_shape(const Tensor& tensor, const std::vector<std::int64_t>& shape) {
    return std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.begin() + tensor.rank);
}

bool is_float(DType dtype) {
    return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32 || dtype == DType::f64;
}

std::span<const std::int64_t> shape_of(const Tensor& tensor) {
    return {tensor.shape.data(), static_cast<std::size_t>(tensor.rank)};
}

}  // namespace

CaseContext::CaseContext(const Case& the_case, const std::string& folder, Device device)
    : case_(the_case), file_(open(folder + "/" + the_case.file)), device_(device) {
    for (const auto& [name, tensor] : case_.outputs) static_cast<void>(in_file(tensor));
    for (const auto& [name, tensor] : case_.aux) static_cast<void>(in_file(tensor));
}

Tensor CaseContext::in_file(const TensorRef& ref) const {
    Tensor tensor;
    try {
        tensor = file_.tensor(ref.tensor);
    } catch (const Error& error) {
        throw BrokenCase(error.what());
    }
    if (tensor.dtype != ref.dtype || !same_shape(tensor, ref.shape))
        broken("tensor \"{}\" is {} in the file, the manifest declares {}[{}]", ref.tensor, to_string(tensor),
               to_string(ref.dtype), fmt::join(ref.shape, ", "));
    return tensor;
}

Tensor CaseContext::expected(const TensorRef& tensor) const { return in_file(tensor); }

DType CaseContext::expected_dtype(const std::string& output, DType otherwise) const {
    const auto found = case_.outputs.find(output);
    return found == case_.outputs.end() ? otherwise : found->second.dtype;
}

const TensorRef& CaseContext::input_ref(const std::string& name) const {
    const auto found = case_.inputs.find(name);
    if (found == case_.inputs.end()) broken("input \"{}\" is missing", name);
    return found->second;
}

Tensor CaseContext::host_input(const std::string& name, int rank) {
    const Tensor tensor = in_file(input_ref(name));
    if (rank >= 0 && tensor.rank != rank)
        broken("input \"{}\" is {}, expected {} dimensions", name, to_string(tensor), rank);
    return memory_.emplace_back(OwnedTensor::copy_of(tensor)).view();
}

Tensor CaseContext::input(const std::string& name, int rank) {
    const Tensor host = host_input(name, rank);
    return device_.is_cuda() ? to_device(host) : host;
}

Tensor CaseContext::optional_input(const std::string& name, int rank) {
    return has(name) ? input(name, rank) : Tensor();
}

Tensor CaseContext::input_as_f32(const std::string& name) {
    const Tensor host = host_input(name);
    if (!is_float(host.dtype)) broken("input \"{}\" is {}, expected floating-point numbers", name, to_string(host));
    const OwnedTensor wide = OwnedTensor::allocate(DType::f32, shape_of(host));
    for (std::int64_t i = 0; i < host.elements(); ++i) set_element(wide, i, element(host, i));
    return to_device(wide);
}

const nlohmann::json* CaseContext::find_param(const std::string& name) const {
    const auto found = case_.params.find(name);
    return found == case_.params.end() || found->is_null() ? nullptr : &*found;
}

std::int64_t CaseContext::integer(const std::string& param, std::int64_t low, std::int64_t high) const {
    const nlohmann::json* value = find_param(param);
    if (value == nullptr) broken("parameter \"{}\" is missing", param);
    if (!value->is_number_integer() || *value < low || *value > high)
        broken("parameter \"{}\" is {}, expected an integer from {} to {}", param, value->dump(), low, high);
    return value->get<std::int64_t>();
}

std::int64_t CaseContext::integer_or(const std::string& param, std::int64_t otherwise) const {
    return find_param(param) == nullptr ? otherwise : integer(param);
}

double CaseContext::number(const std::string& param) const {
    const nlohmann::json* value = find_param(param);
    if (value == nullptr) broken("parameter \"{}\" is missing", param);
    if (!value->is_number()) broken("parameter \"{}\" is {}, expected a number", param, value->dump());
    return value->get<double>();
}

double CaseContext::number_or(const std::string& param, double otherwise) const {
    return find_param(param) == nullptr ? otherwise : number(param);
}

bool CaseContext::boolean_or(const std::string& param, bool otherwise) const {
    const nlohmann::json* value = find_param(param);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) broken("parameter \"{}\" is {}, expected true or false", param, value->dump());
    return value->get<bool>();
}

void CaseContext::agree(const std::string& param, std::int64_t actual) const {
    if (find_param(param) == nullptr) return;
    const std::int64_t stated = integer(param, 0, std::numeric_limits<std::int64_t>::max());
    if (stated != actual) broken("parameter \"{}\" is {}, but the tensors say {}", param, stated, actual);
}

Tensor CaseContext::allocate(DType dtype, std::span<const std::int64_t> shape) {
    const std::size_t bytes = Tensor(nullptr, dtype, shape).bytes();
    if (bytes > kMemoryLimit - allocated_)
        broken("needs {} bytes more than the {} it has, the limit is {}", bytes, allocated_, kMemoryLimit);
    allocated_ += bytes;
    const Tensor tensor = memory_.emplace_back(OwnedTensor::allocate(dtype, shape, device_)).view();
    fill_bytes(tensor.data, device_, 0xFF, tensor.bytes());
    return tensor;
}

Tensor CaseContext::to_device(const Tensor& host) {
    return memory_.emplace_back(OwnedTensor::copy_of(host, device_)).view();
}

void CaseContext::produce(const std::string& name, const Tensor& tensor, std::string note,
                          std::vector<bool> dead_rows) {
    produced_.push_back({name, OwnedTensor::copy_of(tensor), std::move(note), std::move(dead_rows)});
}

}  // namespace tokamak::cli::conformance
