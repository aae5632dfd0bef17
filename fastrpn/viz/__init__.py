"""Pictures: detections, proposals, anchors, curves."""
