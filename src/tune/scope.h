// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::tune {

/// Makes in_measurement() true on this thread while it lives. Scopes nest.
class MeasurementScope {
  public:
    MeasurementScope() noexcept;
    ~MeasurementScope();
    MeasurementScope(const MeasurementScope&) = delete;
    MeasurementScope& operator=(const MeasurementScope&) = delete;
};

}  // namespace tokamak::tune
