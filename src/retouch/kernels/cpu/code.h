// From a row program as Python gives it to steps that the kernels interpret.
#pragma once
#include "types.h"

#include <string>
#include <vector>

namespace retouch {

struct Instruction {
  std::string op;
  int a, b;
  float imm;
};

struct CompiledProgram {
  std::vector<Step> steps;
  int slots = 0, temps = 0;
  int rows = 0, vectors = 0; // operands that a call has to bring
  bool uses_acc = false, whole_row = false;
};

// Throws std::invalid_argument naming the instruction at fault.
CompiledProgram compile_program(const std::vector<Instruction>& instructions);

} // namespace retouch
