// A model of a product's time on one GPU, which ranks and does not predict. The units are steps of a 128 x 128 tile on
// one multiprocessor, about half a microsecond. Nothing in it was measured.
#pragma once

#include "conv2d_relu.h"

namespace alexkern::conv2d_relu {

// What a step of each tile takes (smaller ones read more for each product), what it takes at least, however little
// there is to do, and what a block takes before its first and after its last step.
constexpr double kStepCost[kTiles] = {1.0, 0.55, 0.32};
constexpr double kLeastStepCost = 0.6;
constexpr double kBlockSteps = 4;
constexpr double kSecondPass = 4;        // one more launch
constexpr double kBytesPerUnit = 1.5e6;  // that the memory moves meanwhile

// The steps in a depth of so many values.
std::int64_t steps_in(Element element, std::int64_t depth);

// Products alone: blocks in whole rounds over the GPU, each of so many steps.
double product_time(int tile, std::int64_t blocks, double steps, int multiprocessors);

// `batches` products of rows x depth by depth x columns, and the sum of the splits.
double time_of(const Choice& choice, Element element, std::int64_t rows, int columns, std::int64_t depth, int batches,
               int multiprocessors);

}  // namespace alexkern::conv2d_relu
