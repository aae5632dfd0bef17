// The operators of fastrpn.numpy. Arguments were checked in fastrpn/numpy.py: C-contiguous arrays of float32
// or float64, all of one type, and int64 groups. Nothing is copied, and the GIL is released while a kernel
// runs.
#pragma once

#include <pybind11/pybind11.h>

void add_numpy_ops(pybind11::module_& m);
