// SPDX-License-Identifier: Apache-2.0
#include "cli/case_folder.h"

#include <cstring>

#include "formats/scalar.h"

namespace tokamak::test {
namespace {

template <class T>
std::string bytes_of(const std::vector<T>& values) {
    std::string bytes(values.size() * sizeof(T), '\0');
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

void append(nlohmann::json& header, std::string& data, const std::string& name, const FileTensor& tensor) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
}

nlohmann::json declared(const std::string& name, const FileTensor& tensor) {
    return {{"tensor", name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}};
}

}  // namespace

FileTensor f32(std::vector<std::int64_t> shape, const std::vector<float>& values) {
    return {"F32", std::move(shape), bytes_of(values)};
}

FileTensor i32(std::vector<std::int64_t> shape, const std::vector<std::int32_t>& values) {
    return {"I32", std::move(shape), bytes_of(values)};
}

FileTensor u8(std::vector<std::int64_t> shape, const std::vector<std::uint8_t>& values) {
    return {"U8", std::move(shape), bytes_of(values)};
}

FileTensor bf16(std::vector<std::int64_t> shape, const std::vector<float>& values) {
    std::vector<std::uint16_t> codes;
    for (const float value : values) codes.push_back(scalar::float_to_bf16(value));
    return {"BF16", std::move(shape), bytes_of(codes)};
}

nlohmann::json& CaseFolder::add(const std::string& name, const std::string& op, const nlohmann::json& params,
                                const std::map<std::string, FileTensor>& inputs,
                                const std::map<std::string, FileTensor>& outputs) {
    nlohmann::json header = nlohmann::json::object();
    nlohmann::json entry = {{"name", name},
                            {"op", op},
                            {"file", name + ".safetensors"},
                            {"params", params},
                            {"inputs", nlohmann::json::object()},
                            {"outputs", nlohmann::json::object()},
                            {"tolerance", nlohmann::json::object()},
                            {"tags", nlohmann::json::array()}};
    std::string data = "";
    for (const auto& [input, tensor] : inputs) {
        append(header, data, "in." + input, tensor);
        entry["inputs"][input] = declared("in." + input, tensor);
    }
    for (const auto& [output, tensor] : outputs) {
        append(header, data, "out." + output, tensor);
        entry["outputs"][output] = declared("out." + output, tensor);
        entry["tolerance"][output] = {{"exact", true}};
    }
    std::string text = header.dump();
    // One space more or less moves the data: nothing may rely on aligned tensors.
    text.append(8 - (text.size() + 1) % 8, ' ');
    const std::uint64_t length = text.size();
    std::string file(sizeof(length), '\0');
    std::memcpy(file.data(), &length, sizeof(length));
    write_file(folder_.file(name + ".safetensors"), file + text + data);
    return cases_.emplace_back(std::move(entry));
}

void CaseFolder::write() const {
    write_file(folder_.file("manifest.json"), nlohmann::json{{"format", 1}, {"cases", cases_}}.dump());
}

}  // namespace tokamak::test
