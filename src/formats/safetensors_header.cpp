// SPDX-License-Identifier: Apache-2.0
#include "formats/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/throw.h"
#include "formats/safetensors_json.h"

namespace tokamak::formats {
namespace {

struct NamedType {
    std::string_view name;
    unsigned bits;
    std::optional<DType> dtype;
};

/// Types of the format. Those without a DType are listed and measured, but no view of them can be given.
constexpr std::array<NamedType, 21> kTypes = {
    {{"F64", 64, DType::f64},      {"F32", 32, DType::f32},      {"F16", 16, DType::f16},
     {"BF16", 16, DType::bf16},    {"F8_E4M3", 8, DType::e4m3},  {"F8_E8M0", 8, DType::e8m0},
     {"I64", 64, DType::i64},      {"I32", 32, DType::i32},      {"U8", 8, DType::u8},
     {"I8", 8, DType::u8},         {"BOOL", 8, std::nullopt},    {"I16", 16, std::nullopt},
     {"U16", 16, std::nullopt},    {"U32", 32, std::nullopt},    {"U64", 64, std::nullopt},
     {"F8_E5M2", 8, std::nullopt}, {"C64", 64, std::nullopt},    {"F4", 4, std::nullopt},
     {"F6_E2M3", 6, std::nullopt}, {"F6_E3M2", 6, std::nullopt}, {"F8_E4M3FNUZ", 8, std::nullopt}}};

const NamedType* find_type(std::string_view name) noexcept {
    const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [&](const NamedType& t) { return t.name == name; });
    return found == kTypes.end() ? nullptr : found;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    constexpr std::size_t most = 16;
    std::string text = "[";
    for (std::size_t d = 0; d < std::min(shape.size(), most); ++d)
        text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
    return text + (shape.size() > most ? ", ...]" : "]");
}

/// Bytes of `shape`, or nothing if they pass 2^63 (a zero elsewhere in the shape does not excuse it) or end inside a
/// byte.
std::optional<std::uint64_t> bytes_of(const std::vector<std::int64_t>& shape, unsigned bits) noexcept {
    std::uint64_t elements = 1;
    bool empty = false;
    for (const std::int64_t size : shape) {
        empty = empty || size == 0;
        if (size != 0 && __builtin_mul_overflow(elements, static_cast<std::uint64_t>(size), &elements))
            return std::nullopt;
    }
    // elements * bits / 8 without passing 64 bits.
    const std::uint64_t eighths = elements % 8 * bits;
    std::uint64_t bytes = 0;
    if (eighths % 8 != 0 || __builtin_mul_overflow(elements / 8, std::uint64_t{bits}, &bytes) ||
        __builtin_add_overflow(bytes, eighths / 8, &bytes) ||
        bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return std::nullopt;
    return empty ? 0 : bytes;
}

void check_entry(const std::string& file, const TensorEntry& entry, std::uint64_t data_bytes) {
    if (entry.begin > entry.end)
        fail(ErrorCode::parse, "{}: tensor {}: begins at byte {}, after its end at {}", file, display_name(entry.name),
             entry.begin, entry.end);
    if (entry.end > data_bytes)
        fail(ErrorCode::parse, "{}: tensor {}: ends at byte {}, but the file has {} bytes of data", file,
             display_name(entry.name), entry.end, data_bytes);
    const NamedType* type = find_type(entry.dtype);
    if (type == nullptr) return;  // an unknown type can be listed, not measured
    const auto bytes = bytes_of(entry.shape, type->bits);
    if (!bytes)
        fail(ErrorCode::parse, "{}: tensor {}: {}{} is no possible size", file, display_name(entry.name), entry.dtype,
             shape_text(entry.shape));
    if (*bytes != entry.end - entry.begin)
        fail(ErrorCode::parse, "{}: tensor {}: {}{} takes {} bytes, its offsets span {}", file,
             display_name(entry.name), entry.dtype, shape_text(entry.shape), *bytes, entry.end - entry.begin);
}

/// The format allows neither overlaps nor unused bytes: tensors in order of their data are gapless.
void check_coverage(const std::string& file, const std::vector<TensorEntry>& tensors, std::uint64_t data_bytes) {
    std::vector<const TensorEntry*> order;
    order.reserve(tensors.size());
    for (const TensorEntry& entry : tensors) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
        return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
    });
    std::uint64_t covered = 0;
    std::string before = "the start";
    for (const TensorEntry* entry : order) {
        if (entry->begin != covered)
            fail(ErrorCode::parse, "{}: tensor {}: begins at byte {}, {} {}, which ends at {}", file,
                 display_name(entry->name), entry->begin, entry->begin < covered ? "overlaps" : "leaves a gap after",
                 before, covered);
        covered = entry->end;
        before = display_name(entry->name);
    }
    if (covered != data_bytes)
        fail(ErrorCode::parse, "{}: {} bytes of data follow the last tensor, which ends at byte {}", file,
             data_bytes - covered, covered);
}

}  // namespace

std::optional<DType> tensor_dtype(std::string_view name) noexcept {
    const NamedType* type = find_type(name);
    return type == nullptr ? std::nullopt : type->dtype;
}

const char* safetensors_dtype(DType dtype) noexcept {
    switch (dtype) {
        case DType::bf16: return "BF16";
        case DType::f16: return "F16";
        case DType::f32: return "F32";
        case DType::f64: return "F64";
        case DType::e4m3: return "F8_E4M3";
        case DType::e8m0: return "F8_E8M0";
        case DType::u4x2:
        case DType::u8: return "U8";
        case DType::i32: return "I32";
        case DType::i64: return "I64";
    }
    return "unknown";
}

std::string display_name(std::string_view name) {
    constexpr std::size_t most = 200;
    std::string text = "\"";
    for (const char c : name.substr(0, most)) text += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
    return text + (name.size() > most ? "...\"" : "\"");
}

Tensor describe_entry(const std::string& file, const TensorEntry& entry, const std::byte* data) {
    const std::optional<DType> dtype = tensor_dtype(entry.dtype);
    if (!dtype)
        fail(ErrorCode::parse, "{}: tensor {}: dtype {} is not supported", file, display_name(entry.name),
             display_name(entry.dtype));
    if (entry.shape.size() > static_cast<std::size_t>(Tensor::max_rank))
        fail(ErrorCode::parse, "{}: tensor {}: {} dimensions, at most {} are supported", file, display_name(entry.name),
             entry.shape.size(), Tensor::max_rank);
    return {data, *dtype, entry.shape};
}

SafetensorsHeader parse_safetensors_header(const std::string& file, std::string_view json, std::uint64_t data_bytes) {
    // The parser would skip a byte order mark and leading blanks; the format has none.
    if (json.empty() || json.front() != '{')
        fail(ErrorCode::parse, "{}: header: does not begin with '{{': not a safetensors file", file);
    // The parser takes a zero byte for the end of its input and would leave the rest unseen.
    if (const std::size_t zero = json.find('\0'); zero != std::string_view::npos)
        fail(ErrorCode::parse, "{}: header: not valid JSON at byte {}: a zero byte", file, zero);
    SafetensorsHeader header;
    HeaderEvents events(file, header);
    nlohmann::json::sax_parse(json.begin(), json.end(), &events);
    for (const TensorEntry& entry : header.tensors) check_entry(file, entry, data_bytes);
    check_coverage(file, header.tensors, data_bytes);
    std::sort(header.tensors.begin(), header.tensors.end(),
              [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
    return header;
}

}  // namespace tokamak::formats
