"""Microseconds that each row of the GPU benchmarks is predicted to take on an H100 (SXM).

Written down before any kernel had run on a GPU, so that a measurement says where our picture of
the hardware is wrong. A row is not changed to what was measured; benchmarks.cuda_report sets both
side by side. Assumed throughout:

- 3.0 TB/s from and to memory, 5.5 TB/s from the L2 cache of 50 MB;
- 132 multiprocessors at 1.7 GHz: 28.7 T operations a second without fused ones, an IoU takes 25;
- 4 µs for a kernel that has little to do, the gap before it included; 0.6 µs for a load that
  another waits for, 1 µs for a round of a block between two barriers;
- 20 µs where the shape of the result makes the host wait (nms, batched_nms, soft_nms): the count's
  way to the host and the next launch's way back.
"""

Row = tuple[str, str]  # op, work: as in benchmarks.cuda_cases and benchmarks.cuda_model

PREDICTED: dict[Row, dict[str, float]] = {
    # rank, mask, reduce: 4 to 6 µs each, and 10 to 25 rounds of reduce, each two barriers and a
    # dependent load: 1.5 µs. The host waits once.
    ("nms", "300 RPN-like @0.7"): {"fastrpn": 45},
    ("nms", "1,000 RPN-like @0.7"): {"fastrpn": 55},
    ("nms", "2,000 RPN-like @0.7"): {"fastrpn": 70},
    # Sorted: key, 7 kernels of CUB, gather: 36 µs; then a chunk of 4,096 boxes takes mask 9 (8.4 M
    # IoUs), reduce 50, sweep 6 µs: 2 chunks and 3.
    ("nms", "6,000 RPN-like @0.7"): {"fastrpn": 160},
    ("nms", "12,000 RPN-like @0.7"): {"fastrpn": 250},
    # 25 chunks of mask 9, reduce 30 (short chains), sweep 12 µs; two sorts.
    ("nms", "100,000 dense @0.5"): {"fastrpn": 1400},
    # 245 chunks; a sweep's 3,900 blocks read 2,500 kept boxes each from the L2 cache: 35 µs.
    ("nms", "1,000,000 dense @0.5"): {"fastrpn": 18_500},
    # As float32: boxes are widened once, when they are put in order.
    ("nms", "12,000 RPN-like @0.7, float16"): {"fastrpn": 250},
    ("nms", "12,000 RPN-like @0.7, bfloat16"): {"fastrpn": 250},
    # 5 chunks of 42 µs, a sort of 4 passes and one of 6. Of 8 images: 8 times the IoUs of mask, but
    # reduce and sweep in the same time, and no host that waits.
    ("batched_nms", "20,000 x 80 classes"): {"fastrpn": 320},
    ("batched_nms", "20,000 x 80 classes, 8 images"): {"fastrpn": 620},
    # 109 rounds of 2.5 µs (three barriers, ten shuffles, a load); 276 rounds of 5.5 µs, since a
    # thread has ten boxes.
    ("soft_nms", "1,000 RPN-like, linear"): {"fastrpn": 300},
    ("soft_nms", "10,000 RPN-like, linear"): {"fastrpn": 1550},
    # 320 and 1,024 MB written: 107 and 341 µs; 80 and 256 M IoUs hide behind them, not wholly.
    # Half boxes give float32 IoUs: the same bytes.
    ("box_iou", "200,000 x 400"): {"fastrpn": 125, "fastrpn float16": 125},
    ("box_iou", "16,000 x 16,000"): {"fastrpn": 400, "fastrpn float16": 400},
    # 56 M IoUs of 40 operations with their vote: 78 µs; labels read and write 40 MB: 20; two small
    # launches, and the counts that the call makes.
    ("match_anchors", "217,413 x 32, 8 images"): {"fastrpn": 120},
    # Keys 12 µs, a sort of 1.7 M pairs in 5 passes of 42 MB: 110; decoding 6; NMS of 8 x 8,663: a
    # sort 30, 3 chunks of 120 (67 M IoUs in mask); gather.
    ("generate_proposals", "8 images x 217,413 anchors, 5 levels"): {"fastrpn": 530},
    # Forward: cells from the L2 cache (684 MB and 1.2 GB; halves: half of it) bind more than the
    # 205 MB written. NCHW reads 8 sectors a warp where channels last reads whole lines.
    # Backward: 35 tiles x 4 groups of channels are 140 blocks of 128 threads; 61 M and 69 M
    # gradients are 3,400 and 3,900 dependent loads a thread of 0.6 µs, and roi_align tests 49 bins
    # of each RoI: bound by latency, not by bytes (135 µs); so halves win little.
    ("roi_pool", "forward, 2,000 RoIs, 512x38x50"): {
        "fastrpn": 130,
        "fastrpn NCHW": 350,
        "fastrpn float16": 80,
    },
    ("roi_pool", "backward, 2,000 RoIs, 512x38x50"): {
        "fastrpn": 2200,
        "fastrpn NCHW": 3500,
        "fastrpn float16": 2000,
    },
    ("roi_align", "forward, 2,000 RoIs, 512x38x50"): {
        "fastrpn": 260,
        "fastrpn NCHW": 700,
        "fastrpn float16": 150,
    },
    ("roi_align", "backward, 2,000 RoIs, 512x38x50"): {
        "fastrpn": 4000,
        "fastrpn NCHW": 5000,
        "fastrpn float16": 3800,
    },
    # Forward: 3.5 and 1.3 GB of cells. Backward: 850 tiles x 2 groups are 1,700 blocks, 6 on a
    # multiprocessor: 2.15 waves of about 470 µs (16 rounds of tests, 300 loads, 75 RoIs' bins).
    ("roi_pool", "forward, 2,000 RoIs, 256x200x272"): {
        "fastrpn": 800,
        "fastrpn NCHW": 1500,
        "fastrpn float16": 450,
    },
    ("roi_pool", "backward, 2,000 RoIs, 256x200x272"): {
        "fastrpn": 1000,
        "fastrpn NCHW": 1600,
        "fastrpn float16": 950,
    },
    ("roi_align", "forward, 2,000 RoIs, 256x200x272"): {
        "fastrpn": 300,
        "fastrpn NCHW": 900,
        "fastrpn float16": 170,
    },
    ("roi_align", "backward, 2,000 RoIs, 256x200x272"): {
        "fastrpn": 1300,
        "fastrpn NCHW": 1900,
        "fastrpn float16": 1250,
    },
    # Forward: 420 MB of cells, 51 MB written, and a dozen small kernels of torch choose levels.
    # Backward: 4,500 blocks, 5.7 waves of 75 µs.
    ("multiscale_roi_align", "forward, 1,024 RoIs, 2 images, 4 levels"): {
        "fastrpn": 170,
        "fastrpn NCHW": 300,
        "fastrpn float16": 130,
    },
    ("multiscale_roi_align", "backward, 1,024 RoIs, 2 images, 4 levels"): {
        "fastrpn": 450,
        "fastrpn NCHW": 600,
        "fastrpn float16": 430,
    },
    # An image is 134 G multiplications and additions: 6 ms in TF32, 3 in bfloat16, at 40 % of the
    # peak in eight images, less in one. One image is bound by the host's 1,200 launches (14 ms),
    # which a graph takes away. A training step is three times the work, less the frozen stages.
    ("model", "inference, 1 images"): {
        "fastrpn": 14_000,
        "fastrpn graph": 7000,
        "fastrpn bfloat16": 15_000,
        "fastrpn bfloat16 graph": 4500,
    },
    ("model", "inference, 8 images"): {
        "fastrpn": 45_000,
        "fastrpn graph": 42_000,
        "fastrpn bfloat16": 25_000,
        "fastrpn bfloat16 graph": 23_000,
    },
    ("model", "training step, 4 images"): {"fastrpn": 70_000, "fastrpn bfloat16": 45_000},
}


def predicted(op: str, work: str, library: str) -> float | None:
    """Microseconds on an H100; None for what is no row of ours, as in a dry run."""
    return PREDICTED.get((op, work), {}).get(library)
