#include "cases.h"

#define KERNELS(level)                     \
  {#level,                                 \
   fastrpn::level::box_iou_cpu,            \
   fastrpn::level::nms_cpu,                \
   fastrpn::level::soft_nms_cpu,           \
   fastrpn::level::match_anchors_cpu,      \
   fastrpn::level::generate_proposals_cpu, \
   fastrpn::level::roi_pool_cpu,           \
   fastrpn::level::roi_pool_backward_cpu,  \
   fastrpn::level::roi_align_cpu,          \
   fastrpn::level::roi_align_backward_cpu}

const std::vector<Kernels> kLevels = {
#if defined(HAS_generic)
    KERNELS(generic),
#endif
#if defined(HAS_avx2)
    KERNELS(avx2),
#endif
#if defined(HAS_avx512)
    KERNELS(avx512),
#endif
};

const std::vector<Case> kCases = {
    {"box_iou", box_iou_case},
    {"nms", nms_case},
    {"soft_nms", soft_nms_case},
    {"match_anchors", match_anchors_case},
    {"generate_proposals", generate_proposals_case},
    {"roi_pool", roi_pool_case},
    {"roi_pool_backward", roi_pool_backward_case},
    {"roi_align", roi_align_case},
    {"roi_align_backward", roi_align_backward_case},
};
