// SPDX-License-Identifier: Apache-2.0
#include "tune/scope.h"

#include "tokamak/tune.h"

namespace tokamak::tune {
namespace {

thread_local int depth = 0;

}  // namespace

MeasurementScope::MeasurementScope() noexcept { ++depth; }
MeasurementScope::~MeasurementScope() { --depth; }

bool in_measurement() noexcept { return depth > 0; }

}  // namespace tokamak::tune
