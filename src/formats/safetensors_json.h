// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "formats/safetensors_header.h"

namespace tokamak::formats {

/// Receives the header's JSON events. A tree would keep the last of two equal names without a word and would be built
/// before anything is checked; events let every duplicate, type and depth be refused where they stand. The parser keeps
/// its own stack, so nesting costs no call depth, and this class ends it at the third level.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
  public:
    HeaderEvents(const std::string& file, SafetensorsHeader& header) : file_(file), header_(header) {}

    bool null() override;
    bool boolean(bool value) override;
    bool number_integer(number_integer_t value) override;
    bool number_unsigned(number_unsigned_t value) override;
    bool number_float(number_float_t value, const string_t& text) override;
    bool string(string_t& value) override;
    bool binary(binary_t& value) override;
    bool start_object(std::size_t elements) override;
    bool key(string_t& value) override;
    bool end_object() override;
    bool start_array(std::size_t elements) override;
    bool end_array() override;
    bool parse_error(std::size_t position, const std::string& token, const nlohmann::json::exception& error) override;

  private:
    /// What the parser stands in.
    enum class Place { outside, root, metadata, tensor, list };

    [[noreturn]] void refuse(const std::string& what) const;
    [[noreturn]] void refuse_value(const char* kind) const;
    void finish_tensor();

    const std::string& file_;
    SafetensorsHeader& header_;
    Place place_ = Place::outside;
    std::set<std::string> names_;   ///< keys of the root
    std::set<std::string> fields_;  ///< keys of the tensor or of the metadata
    std::string name_;              ///< last key of the root
    std::string field_;             ///< last key of the tensor or of the metadata
    TensorEntry entry_;
    std::vector<std::uint64_t> numbers_;  ///< of the current list
};

}  // namespace tokamak::formats
