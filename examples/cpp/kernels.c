/* IoU, NMS and RoIPool on plain arrays, without Python and torch. */
#include <fastrpn.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void require(const char* message) {
  if (message == NULL) return;
  fprintf(stderr, "fastrpn: %s\n", message);
  exit(1);
}

int main(void) {
  const float boxes[3][4] = {{0, 0, 10, 10}, {1, 1, 11, 11}, {20, 20, 30, 30}};
  const float scores[3] = {0.8f, 0.9f, 0.7f};

  float iou[3][3];
  require(fastrpn_box_iou(boxes[0], 3, boxes[0], 3, iou[0]));
  printf("iou of the first two: %.4f\n", iou[0][1]);

  int64_t kept[3], num_kept;
  require(fastrpn_nms(boxes[0], scores, NULL, 3, 0.5, -INFINITY, 3, kept, &num_kept));
  printf("kept:");
  for (int64_t i = 0; i < num_kept; ++i) printf(" %" PRId64, kept[i]);
  printf("\n");

  /* One map of 4 x 4 cells of 8 pixels, pooled into 2 x 2 bins. */
  float features[16], output[4];
  for (int i = 0; i < 16; ++i) features[i] = (float)i;
  const float rois[5] = {0, 0, 0, 31, 31};
  const fastrpn_pooling shape = {.batch = 1,
                                 .channels = 1,
                                 .height = 4,
                                 .width = 4,
                                 .num_rois = 1,
                                 .pooled_height = 2,
                                 .pooled_width = 2,
                                 .spatial_scale = 1.0 / 8};
  require(fastrpn_roi_pool(&shape, features, rois, output, NULL));
  printf("pooled: %g %g %g %g\n", output[0], output[1], output[2], output[3]);
  return 0;
}
