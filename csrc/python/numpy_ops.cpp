#include "python/numpy_ops.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <tuple>
#include <utility>

#include "ops/box_iou/box_iou.h"
#include "ops/nms/nms.h"
#include "ops/soft_nms/soft_nms.h"

namespace py = pybind11;

namespace fastrpn {
namespace {

DType dtype_of(const py::array& array) {
  return array.itemsize() == sizeof(double) ? DType::float64 : DType::float32;
}

py::array box_iou(const py::array& boxes1, const py::array& boxes2) {
  py::array iou(boxes1.dtype(), {boxes1.shape(0), boxes2.shape(0)});
  const BoxIouArgs args{dtype_of(boxes1), boxes1.data(),   boxes2.data(),
                        boxes1.shape(0),  boxes2.shape(0), iou.mutable_data()};
  {
    const py::gil_scoped_release release;
    FASTRPN_CPU(box_iou_cpu)(args, serial());
  }
  return iou;
}

// Kept rows, then -1; and how many were kept.
std::pair<py::array_t<int64_t>, int64_t> nms(const py::array& boxes, const py::array& scores,
                                             const std::optional<py::array_t<int64_t>>& groups,
                                             double iou_threshold) {
  const int64_t n = boxes.shape(0);
  py::array_t<int64_t> indices(n);
  int64_t kept = 0;
  NmsArgs args{};
  args.dtype = dtype_of(boxes);
  args.boxes = boxes.data();
  args.scores = scores.data();
  args.groups = groups ? groups->data() : nullptr;
  args.batch = 1;
  args.n = n;
  args.iou_threshold = iou_threshold;
  args.max_output = n;
  args.indices = indices.mutable_data();
  args.kept = &kept;
  {
    const py::gil_scoped_release release;
    FASTRPN_CPU(nms_cpu)(args, serial());
  }
  return {std::move(indices), kept};
}

// Selected rows and their scores when selected, of which the first `kept` count.
std::tuple<py::array_t<int64_t>, py::array, int64_t> soft_nms(const py::array& boxes, const py::array& scores,
                                                              bool gaussian, double sigma,
                                                              double iou_threshold, double score_threshold) {
  const int64_t n = boxes.shape(0);
  py::array_t<int64_t> indices(n);
  py::array decayed(scores.dtype(), py::array::ShapeContainer{n});
  int64_t kept = 0;
  const SoftNmsArgs args{dtype_of(boxes),
                         boxes.data(),
                         scores.data(),
                         n,
                         gaussian ? SoftNmsMethod::gaussian : SoftNmsMethod::linear,
                         sigma,
                         iou_threshold,
                         score_threshold,
                         indices.mutable_data(),
                         decayed.mutable_data(),
                         &kept};
  if (n > 0) {
    const py::gil_scoped_release release;
    FASTRPN_CPU(soft_nms_cpu)(args, serial());
  }
  return {std::move(indices), std::move(decayed), kept};
}

}  // namespace
}  // namespace fastrpn

void add_numpy_ops(py::module_& m) {
  m.def("box_iou", &fastrpn::box_iou);
  m.def("nms", &fastrpn::nms);
  m.def("soft_nms", &fastrpn::soft_nms);
}
