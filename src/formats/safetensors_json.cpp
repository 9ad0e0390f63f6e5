// SPDX-License-Identifier: Apache-2.0
#include "formats/safetensors_json.h"

#include <limits>
#include <utility>

#include "core/throw.h"

namespace tokamak::formats {

void HeaderEvents::refuse(const std::string& what) const {
    const bool in_root = place_ == Place::outside || (place_ == Place::root && name_.empty());
    const std::string where = in_root ? std::string("header") : "header, " + display_name(name_);
    fail(ErrorCode::parse, "{}: {}: {}", file_, where, what);
}

void HeaderEvents::refuse_value(const char* kind) const {
    switch (place_) {
        case Place::outside: refuse(fmt::format("is {}, expected an object", kind));
        case Place::root: refuse(fmt::format("is {}, expected an object", kind));
        case Place::metadata: refuse(fmt::format("value of {} is {}, expected a string", display_name(field_), kind));
        case Place::tensor:
            refuse(fmt::format("`{}` is {}, expected {}", field_, kind, field_ == "dtype" ? "a string" : "a list"));
        case Place::list: refuse(fmt::format("`{}` holds {}, expected integers from 0 to 2^63 - 1", field_, kind));
    }
    refuse("unexpected value");
}

bool HeaderEvents::null() { refuse_value("null"); }
bool HeaderEvents::boolean(bool) { refuse_value("a truth value"); }
bool HeaderEvents::number_integer(number_integer_t) { refuse_value("a negative number"); }
bool HeaderEvents::number_float(number_float_t, const string_t&) { refuse_value("a fraction or a huge number"); }
bool HeaderEvents::binary(binary_t&) { refuse_value("binary data"); }

bool HeaderEvents::number_unsigned(number_unsigned_t value) {
    if (place_ != Place::list) refuse_value("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) refuse_value("a huge number");
    numbers_.push_back(value);
    return true;
}

bool HeaderEvents::string(string_t& value) {
    if (place_ == Place::metadata) {
        header_.metadata.emplace(field_, std::move(value));
    } else if (place_ == Place::tensor && field_ == "dtype") {
        entry_.dtype = std::move(value);
    } else {
        refuse_value("a string");
    }
    return true;
}

bool HeaderEvents::start_object(std::size_t) {
    fields_.clear();
    switch (place_) {
        case Place::outside: place_ = Place::root; return true;
        case Place::root:
            place_ = name_ == kMetadataKey ? Place::metadata : Place::tensor;
            entry_ = {};
            entry_.name = name_;
            return true;
        default: refuse_value("an object");
    }
}

bool HeaderEvents::key(string_t& value) {
    if (place_ == Place::root) {
        name_ = std::move(value);
        if (!names_.insert(name_).second) refuse("occurs twice");
        return true;
    }
    field_ = std::move(value);
    if (place_ == Place::tensor && field_ != "dtype" && field_ != "shape" && field_ != "data_offsets")
        refuse(fmt::format("has the unknown field {}", display_name(field_)));
    if (!fields_.insert(field_).second) refuse(fmt::format("{} occurs twice", display_name(field_)));
    return true;
}

void HeaderEvents::finish_tensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"})
        if (fields_.count(field) == 0) refuse(fmt::format("`{}` is missing", field));
    header_.tensors.push_back(std::move(entry_));
}

bool HeaderEvents::end_object() {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::root ? Place::outside : Place::root;
    return true;
}

bool HeaderEvents::start_array(std::size_t) {
    if (place_ != Place::tensor || field_ == "dtype") refuse_value("a list");
    place_ = Place::list;
    numbers_.clear();
    return true;
}

bool HeaderEvents::end_array() {
    place_ = Place::tensor;
    if (field_ == "shape") {
        entry_.shape.assign(numbers_.begin(), numbers_.end());
        return true;
    }
    if (numbers_.size() != 2) refuse(fmt::format("`data_offsets` has {} entries, expected 2", numbers_.size()));
    entry_.begin = numbers_[0];
    entry_.end = numbers_[1];
    return true;
}

bool HeaderEvents::parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    fail(ErrorCode::parse, "{}: header: not valid JSON at byte {}: {}", file_, position, display_name(error.what()));
}

}  // namespace tokamak::formats
