#include "code.h"

#include <algorithm>
#include <stdexcept>

namespace retouch {

namespace {

struct OpName {
  const char* name;
  Op op;
  int operands; // -1: a load
};

constexpr OpName op_names[] = {{"acc", Op::acc, -1},
                               {"rows", Op::rows, -1},
                               {"vector", Op::vector, -1},
                               {"const", Op::constant, -1},
#define RETOUCH_TWO(name, ...) {#name, Op::name, 2},
#define RETOUCH_ONE(name, ...) {#name, Op::name, 1},
                               RETOUCH_BINARY(RETOUCH_TWO) RETOUCH_UNARY(RETOUCH_ONE)
                                   RETOUCH_ROW_WISE(RETOUCH_ONE)
#undef RETOUCH_ONE
#undef RETOUCH_TWO
};

const OpName& find_op(const std::string& name, size_t at) {
  for (const OpName& entry : op_names)
    if (name == entry.name) return entry;
  throw std::invalid_argument("instruction " + std::to_string(at) + ": unknown op '" + name + "'");
}

// A value in static single assignment form; args name earlier values.
struct Value {
  Op op;
  int operands;
  int args[3];
  int load; // operand number of a load
  float imm;
  int uses = 0;
};

std::vector<Value> read_values(const std::vector<Instruction>& instructions) {
  std::vector<Value> values;
  for (size_t i = 0; i < instructions.size(); ++i) {
    const Instruction& in = instructions[i];
    const OpName& entry = find_op(in.op, i);
    Value v{entry.op, std::max(entry.operands, 0), {in.a, in.b, -1}, in.a, in.imm};
    for (int k = 0; k < v.operands; ++k) {
      if (v.args[k] < 0 || v.args[k] >= int(i))
        throw std::invalid_argument("instruction " + std::to_string(i) + " (" + in.op +
                                    "): operand " + std::to_string(v.args[k]) +
                                    " is not an earlier register");
      values[v.args[k]].uses++;
    }
    if ((v.op == Op::rows || v.op == Op::vector) && v.load < 0)
      throw std::invalid_argument("instruction " + std::to_string(i) + " (" + in.op +
                                  "): the operand number is negative");
    if (v.op == Op::acc && i != 0)
      throw std::invalid_argument("acc is allowed as instruction 0 only, not " + std::to_string(i));
    values.push_back(v);
  }
  return values;
}

bool is_load(Op op) {
  return op == Op::acc || op == Op::rows || op == Op::vector || op == Op::constant;
}

// Joins a*b + c, silu of it, and (a + b) + c when the inner value has no other use. The dead inner
// value keeps its place with zero uses.
void fuse(std::vector<Value>& values) {
  for (Value& v : values) {
    if (v.op == Op::add) {
      for (int side = 0; side < 2; ++side) {
        Value& inner = values[v.args[side]];
        if (inner.uses != 1 || (inner.op != Op::mul && !(inner.op == Op::add && side == 0)))
          continue;
        int other = v.args[1 - side];
        v = {inner.op == Op::mul ? Op::affine : Op::add_add,
             3,
             {inner.args[0], inner.args[1], other},
             0,
             0,
             v.uses};
        inner.uses = 0;
        inner.operands = 0;
        break;
      }
    } else if (v.op == Op::silu) {
      Value& inner = values[v.args[0]];
      if (inner.op != Op::affine || inner.uses != 1) continue;
      v = {Op::affine_silu, 3, {inner.args[0], inner.args[1], inner.args[2]}, 0, 0, v.uses};
      inner.uses = 0;
      inner.operands = 0;
    }
  }
}

class Assembler {
 public:
  explicit Assembler(std::vector<Value> values)
      : values(std::move(values)), slot(this->values.size(), -1), left(this->values.size()) {
    for (size_t i = 0; i < left.size(); ++i) left[i] = this->values[i].uses;
  }

  CompiledProgram run() {
    int last = int(values.size()) - 1;
    for (int i = 0; i <= last; ++i) {
      const Value& v = values[i];
      note_operands(v);
      if (is_load(v.op) ? i != last : (v.uses == 0 && i != last)) continue;
      emit(i, i == last);
    }
    return std::move(program);
  }

 private:
  void note_operands(const Value& v) {
    if (v.op == Op::rows) program.rows = std::max(program.rows, v.load + 1);
    if (v.op == Op::vector) program.vectors = std::max(program.vectors, v.load + 1);
    program.uses_acc |= v.op == Op::acc;
#define RETOUCH_IS(name) program.whole_row |= v.op == Op::name;
    RETOUCH_ROW_WISE(RETOUCH_IS)
#undef RETOUCH_IS
  }

  Source source(int id, int position) {
    const Value& v = values[id];
    program.temps = std::max(program.temps, position + 1);
    uint8_t temp = uint8_t(position);
    switch (v.op) {
    case Op::acc:
      return {Source::acc, temp, 0, 0};
    case Op::rows:
      return {Source::rows, temp, v.load, 0};
    case Op::vector:
      return {Source::vector, temp, v.load, 0};
    case Op::constant:
      return {Source::constant, temp, 0, v.imm};
    default:
      return {Source::slot, temp, slot[id], 0};
    }
  }

  void emit(int i, bool last) {
    const Value& v = values[i];
    Step step{is_load(v.op) ? Op::copy : v.op, {}, -1, v.imm};
    if (is_load(v.op)) {
      step.src[0] = source(i, 0);
    } else {
      for (int k = 0; k < v.operands; ++k) step.src[k] = source(v.args[k], k);
      for (int k = 0; k < v.operands; ++k) release(v.args[k]);
    }
    if (!last) step.dst = slot[i] = take_slot();
    program.steps.push_back(step);
  }

  // A step may write the slot it reads: every kernel reads a column before it writes it.
  void release(int id) {
    if (--left[id] == 0 && slot[id] >= 0) free_slots.push_back(slot[id]);
  }

  int take_slot() {
    if (free_slots.empty()) return program.slots++;
    int taken = free_slots.back();
    free_slots.pop_back();
    return taken;
  }

  std::vector<Value> values;
  std::vector<int> slot, left, free_slots;
  CompiledProgram program;
};

} // namespace

CompiledProgram compile_program(const std::vector<Instruction>& instructions) {
  if (instructions.empty()) throw std::invalid_argument("a row program needs an instruction");
  if (instructions.size() > 200)
    throw std::invalid_argument("a row program has at most 200 instructions");
  std::vector<Value> values = read_values(instructions);
  values.back().uses++;
  fuse(values);
  return Assembler(std::move(values)).run();
}

} // namespace retouch
