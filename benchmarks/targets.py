"""What the project wants to reach on a CPU with two threads."""

from dataclasses import dataclass


@dataclass
class Target:
    """One bound on one measured quantity of one row.

    Attributes:
        op, work: those of the measurement.
        quantity: "× library" (how many times we are faster), "ms", or the name of a note.
        must, aim: at least for "×" and shares, at most for "ms" and "MB"; None where none is set.
    """

    op: str
    work: str
    quantity: str
    must: float
    aim: float | None = None

    def measured(self, rows: dict[tuple[str, str], dict]) -> float | None:
        """The quantity in a result file; None where it was not measured."""
        row = rows.get((self.op, self.work))
        if row is None:
            return None
        if self.quantity == "ms":
            return row["milliseconds"]["fastrpn"]
        if self.quantity.startswith("× "):
            return row["speedup"].get(self.quantity[2:])
        return row["notes"].get(self.quantity)

    def by_minima(self, rows: dict[tuple[str, str], dict]) -> float | None:
        """The ratio of the fastest runs, which noise hardly changes; None for other quantities."""
        minima = rows.get((self.op, self.work), {}).get("minima") or {}
        peer = minima.get(self.quantity.removeprefix("× "))
        return None if peer is None else peer / minima["fastrpn"]

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        less_is_better = self.quantity == "ms" or self.quantity.endswith("MB")

        def reached(bound: float) -> bool:
            return value <= bound if less_is_better else value >= bound

        if not reached(self.must):
            return "**below**"
        return "aim" if self.aim is not None and reached(self.aim) else "must"


TV = "× torchvision"
TARGETS = [
    Target("nms", "300 rpn @0.7", TV, 8, 12),
    Target("nms", "2,000 rpn @0.7", TV, 45, 80),
    Target("nms", "6,000 rpn @0.7", TV, 70, 150),
    Target("nms", "12,000 rpn @0.7", TV, 90, 200),
    Target("nms", "50,000 rpn @0.5", TV, 40, 100),
    Target("nms", "20,000 dense @0.5", TV, 300, 600),
    Target("nms", "20,000 dense @0.5", "× lsnms", 1),
    Target("nms", "100,000 dense @0.5", TV, 2_500, 7_000),
    Target("nms", "100,000 dense @0.5", "× lsnms", 8),
    Target("nms", "1,000,000 dense @0.5", "ms", 1_000, 300),
    Target("nms", "1,000,000 dense @0.5", "extra MB", 200),
    Target("nms_padded", "12,000 rpn @0.7, first 300", "× fastrpn nms", 2),
    Target("nms_padded", "12,000 rpn @0.7, first 2,000", "× fastrpn nms", 2),
    Target("batched_nms", "8,000 rpn, 80 classes @0.5", TV, 20, 40),
    Target("box_iou", "16,650 x 20", TV, 10),
    Target("box_iou", "16,650 x 100", TV, 30),
    Target("box_iou", "2,000 x 2,000", TV, 40),
    Target("box_iou", "200,000 x 200", TV, 12),
    *(
        Target("box_iou", work, "share of fill speed", 0.7, 1)
        for work in ("16,650 x 20", "16,650 x 100", "2,000 x 2,000", "200,000 x 200")
    ),
    Target("roi_pool", "128 RoIs, NCHW", TV, 12, 25),
    Target("roi_pool", "300 RoIs, NCHW", TV, 14, 25),
    Target("roi_pool", "2,000 RoIs, NCHW", TV, 12, 18),
    *(Target("roi_align", f"{count} RoIs, NCHW", TV, 10, 20) for count in ("128", "300", "2,000")),
    Target("roi_pool", "128 RoIs, with backward, NCHW", TV, 8, 15),
    Target("roi_align", "128 RoIs, with backward, NCHW", TV, 10, 20),
    *(
        Target("match_anchors", f"1,000,000 anchors{order}: 1,000,000 x 1,000", *bound)
        for order in ("", ", shuffled")
        for bound in (("ms", 500, 200), ("extra MB", 50))
    ),
    Target("nms", "10 rpn @0.7", TV, 1, 2),
    Target("batched_nms", "10 rpn, 2 classes @0.5", TV, 1, 2),
    Target("box_iou", "10 x 10", TV, 1, 2),
]
