// Detects objects in a binary PPM image with a package of `fastrpn export --format aoti`.
//
//   detect detector.pt2 street.ppm      prints: label score x1 y1 x2 y2, best first
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/types.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

// RGB [3, H, W] in 0..1.
static torch::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  file.get();
  if (magic != "P6" || width < 1 || height < 1 || largest != 255)
    throw std::runtime_error(path + ": no PPM image");
  std::vector<uint8_t> pixels(3 * width * height);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), std::streamsize(pixels.size())))
    throw std::runtime_error(path + ": cut short");
  return torch::from_blob(pixels.data(), {height, width, 3}, torch::kUInt8)
             .permute({2, 0, 1})
             .to(torch::kFloat) /
         255;
}

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: detect MODEL.pt2 IMAGE.ppm");
  const c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  const std::vector<torch::Tensor> outputs = model.run({read_ppm(argv[2]).contiguous()});
  const torch::Tensor boxes = outputs[0], scores = outputs[1], labels = outputs[2];
  for (int64_t i = 0; i < scores.size(0) && labels[i].item<int64_t>() > 0; ++i) {
    std::printf("%d %.6f", int(labels[i].item<int64_t>()), scores[i].item<float>());
    for (int64_t side = 0; side < 4; ++side) std::printf(" %.3f", boxes[i][side].item<float>());
    std::printf("\n");
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "detect: %s\n", error.what());
  return 1;
}
