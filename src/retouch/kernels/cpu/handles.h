// The objects that Python holds: made and checked once, then passed to kernels at little cost.
#pragma once
#include "code.h"
#include "pages.h"
#include "runtime.h"
#include "types.h"

#include <memory>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <stdexcept>
#include <string>

namespace retouch {

namespace nb = nanobind;

using Tensor = nb::ndarray<nb::ro, nb::device::cpu>;
using TorchTensor = nb::ndarray<nb::pytorch, nb::device::cpu>;

// Pages that live as long as a handle needs them.
struct Pages {
  Span span;
  char* data;
  size_t bytes; // that were asked for

  explicit Pages(size_t bytes, bool huge = true);
  ~Pages();
  Pages(const Pages&) = delete;
};

struct Rows {
  Matrix m;
  std::shared_ptr<void> memory;

  Rows() : m{} {}
  Rows(Matrix m, std::shared_ptr<void> memory) : m(m), memory(std::move(memory)) {}
  explicit Rows(nb::handle tensor);
  Rows slice(int64_t start, int64_t channels) const;
  TorchTensor tensor() const; // shares the memory
};

// The memory of a uint8 tensor, for rows of any shape.
struct Arena {
  char* data;
  int64_t bytes;
  std::shared_ptr<void> memory;

  explicit Arena(nb::handle tensor);
  Rows rows(int64_t offset, int64_t rows, int64_t channels, const std::string& dtype) const;
};

struct Index {
  IndexTable table;
  int dims;
  int32_t min, max; // of an empty index: 0 and -1
  std::shared_ptr<void> memory;

  Index() : table{}, dims(1), min(0), max(-1) {}
  explicit Index(nb::handle tensor);
  TorchTensor tensor() const; // shares the memory
};

struct Program {
  CompiledProgram compiled;
  nb::tuple instructions;

  explicit Program(nb::handle instructions);
};

struct Packed {
  PackedWeights weights{};
  std::shared_ptr<void> memory;

  Packed() = default;
  // In memory of packed_bytes(): what is written there later, or was before.
  Packed(const PackedWeights& shape, const char* data, std::shared_ptr<void> memory);
  TorchTensor tensor() const; // uint8; shares the memory
};

DType named_dtype(const std::string& name); // TypeError for another one
std::string dtype_name(DType dtype);
int64_t dtype_size(DType dtype);

// A CPU tensor through DLPack, without its gradient history; TypeError naming `what` otherwise.
Tensor import_tensor(nb::handle tensor, const char* what);

} // namespace retouch
