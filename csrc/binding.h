// What a folder offers to Python: its bind.h has a Binding, and the build includes every folder's before bindings.cpp.
#pragma once

#include <utility>

#include "arguments.h"

namespace alexkern {

class Binding {
  public:
    using Add = void (*)(pybind11::module_&);
    explicit Binding(Add add) : add(add), rest(std::exchange(all, this)) {}

    static void add_all(pybind11::module_& module) {
        for (const Binding* one = all; one; one = one->rest) one->add(module);
    }

  private:
    Add add;
    const Binding* rest;
    inline static const Binding* all = nullptr;
};

}  // namespace alexkern
