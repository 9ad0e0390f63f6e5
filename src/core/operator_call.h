// SPDX-License-Identifier: Apache-2.0
// What the calls of all operators have in common: the answer of `supports`, and what a convenience call allocates.
#pragma once

#include <initializer_list>

#include "tokamak/error.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak {

/// `supports` in terms of the check that `make_plan` runs: one reason, told in two ways.
template <class Check>
Support support_of(const Check& check) {
    try {
        check();
    } catch (const Error& error) {
        return Support::no(error.what());
    }
    return Support::yes();
}

/// The caller's workspace, or one that lives as long as the call if none was given.
class CallWorkspace {
  public:
    CallWorkspace(const Plan& plan, const Workspace& given, Stream stream) : view_(given) {
        if (given.data != nullptr || given.bytes != 0) return;
        owned_ = OwnedWorkspace(plan.workspace(), plan.device(), stream);
        view_ = owned_.view();
    }
    [[nodiscard]] const Workspace& view() const noexcept { return view_; }

  private:
    OwnedWorkspace owned_;
    Workspace view_;
};

/// The caller's output, or a new one that also takes the argument's place.
inline OwnedTensor output_for(Tensor& argument, DType dtype, std::initializer_list<std::int64_t> shape, Device device) {
    if (argument.present) return OwnedTensor::borrow(argument);
    OwnedTensor owned = OwnedTensor::allocate(dtype, shape, device);
    argument = owned.view();
    return owned;
}

}  // namespace tokamak
