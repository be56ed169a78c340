// Plain data shared by the bindings and the kernels of every instruction set.
//
// No member functions and no templates: code generated here could be merged by the linker with a
// copy compiled for a newer processor.
#pragma once
#include "instructions.h"

#include <cstdint>

namespace retouch {

// Levels of i8 end in the bf16 by which they are multiplied, as two more of them; in rows that are
// copied there are several such parts, one after the other. Rows that products read end in a
// float32 instead, and in the level of zero.
enum class DType : int32_t { f32, bf16, f16, f64, i8 };

constexpr int64_t scale_bytes = 2, product_bytes = 5;

// Row-major [rows, channels]; the row stride ld is in elements.
struct Matrix {
  char* data;
  int64_t rows, channels, ld;
  DType dtype;
};

// int32 [count, taps]; data == nullptr stands for the identity.
struct IndexTable {
  const int32_t* data;
  int64_t count, taps;
};

struct RowOperand {
  Matrix rows;
  const int32_t* index; // row of each m; nullptr: m itself
};

enum class Op : uint8_t {
  // loads
  acc,
  rows,
  vector,
  constant,
#define RETOUCH_NAME(name, ...) name,
  RETOUCH_BINARY(RETOUCH_NAME) RETOUCH_UNARY(RETOUCH_NAME) RETOUCH_ROW_WISE(RETOUCH_NAME)
#undef RETOUCH_NAME
  // made by the optimiser: a*b+c, silu(a*b+c), (a+b)+c, a copied
  affine,
  affine_silu,
  add_add,
  copy
};

// Where an operand of a step comes from.
struct Source {
  enum Kind : uint8_t { none, slot, acc, rows, vector, constant } kind;
  uint8_t temp; // the temporary a converted or broadcast load goes through
  int32_t id;   // slot, row operand or vector operand
  float value;  // constant
};

struct Step {
  Op op;
  Source src[3];
  int32_t dst; // slot, or -1: the output
  float imm;
};

// A row program ready to run: loads folded into the steps that use them.
struct Code {
  const Step* steps;
  int32_t count, slots, temps;
  bool whole_row;
};

// Everything a row program reads and writes besides the accumulator.
struct ProgramArgs {
  Code code;
  const RowOperand* rows;
  const Matrix* vectors;
  const int32_t* sample; // sample of row m; nullptr: all 0
  Matrix out;
  const int32_t* out_index; // row of out for row m; nullptr: m
  int64_t width;            // channels of the registers; an out of one channel takes the first
  int64_t head;             // channels of a head: operands of so many are those of each
};

// Weights of a matrix product: panels of `lanes * vectors` columns, each [tap][channel][column].
// bf16 keeps two consecutive channels of a column beside each other, i8 four, and before the
// channels of a tap it has their sum, and the float32 by which they are multiplied.
struct PackedWeights {
  const char* data;
  int64_t outputs, taps, channels, groups; // channels: of one group
  DType dtype;
  int32_t lanes, max_vectors;
};

struct GemmArgs {
  int64_t m;
  Matrix a;
  const int32_t* index; // [m, taps]; nullptr: row m, one tap
  PackedWeights weights;
  ProgramArgs program;
};

// 3x3 taps; tiles [count, 4]: of 2x2 neighbouring outputs those among the m rows, else -1; `shared`
// ones of several rows, then one for each other row. Taps of neighbours are the same, moved by one.
struct WinogradArgs {
  GemmArgs product;
  IndexTable tiles;
  int64_t shared;
};

struct RowMapArgs {
  int64_t m;
  ProgramArgs program;
};

struct DepthwiseArgs {
  int64_t m;
  Matrix a;
  IndexTable index;
  Matrix weight; // [taps, channels]
  ProgramArgs program;
};

struct PoolArgs {
  int64_t m;
  Matrix out;
  const int32_t* out_index;
  Matrix a;
  IndexTable index;
  const Matrix* weights; // [m, taps]; nullptr: maximum
};

struct KeyRun {
  Matrix k, v;
  int64_t keys; // of one sample
};

struct AttentionArgs {
  Matrix out, q;
  const KeyRun* runs;
  int64_t run_count;
  const int32_t *out_index, *q_index;
  int64_t heads, head_dim, value_dim, samples, keys; // keys of one sample in all runs
  const int32_t* bounds;
  float scale;
  Matrix bias;           // of keys, [samples, keys or heads * keys]; data == nullptr: none
  const int32_t* limits; // of every query the first keys, which it reads; nullptr: all
  Matrix gates; // [rows, 1], what the bias is multiplied by for a query; data == nullptr: 1
  const int32_t* gate_index;
};

struct ChannelSumsArgs {
  Matrix sums, x;
  const int32_t *index, *bounds;
  int64_t samples;
  double sign;
};

struct OuterSumsArgs {
  Matrix sums, a, b;
  const int32_t *a_index, *b_index, *bounds;
  int64_t heads, samples;
  double sign;
};

struct HeadProductArgs {
  Matrix out, a, w;
  const int32_t *out_index, *index, *bounds;
  int64_t heads, samples;
};

struct CopyArgs {
  Matrix dst, src;
  const int32_t *dst_index, *src_index;
  int64_t m;
  const Matrix* sources = nullptr; // instead of src, which is the first: sources[which[m]]
  const int32_t* which = nullptr;

  const Matrix& source(int64_t row) const { return which ? sources[which[row]] : src; }
};

struct ShuffleArgs {
  Matrix out, a;
  const int32_t *out_index, *phase;
  IndexTable index;
  int64_t m, outer_stride, channel_stride; // outer: phase (shuffle) or tap (unshuffle)
};

struct Gathered {
  Matrix rows;
  const int32_t* index; // nullptr: in order
};

struct FitProbesArgs {
  Matrix fit;
  Gathered before, after;
  const int32_t* bounds;
  int64_t samples;
};

struct MoveSumsArgs {
  Matrix shifts, sums, scale, shift;
  double count;
  const int32_t* bounds;
};

struct FoldMeanArgs {
  Matrix out, sums, shift; // shift.data == nullptr: none
  double count;
};

struct FoldNormArgs {
  Matrix out;
  const Matrix* parts;
  const Matrix* shifts; // of each part; nullptr: none
  int64_t part_count, groups;
  double count, eps;
  const float *gamma, *beta; // [channels] or nullptr
};

// The kernels of one instruction set.
struct KernelTable {
  const char* isa;
  int32_t lanes, max_vectors;
#define RETOUCH_KERNEL(name, Args, source) void (*name)(const Args&, int threads);
#include "kernels.inc"
};

} // namespace retouch
