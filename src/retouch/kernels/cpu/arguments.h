// Checks of what Python passes to a kernel. Every limit is checked, in release builds too; the
// messages name the value, the limit and what was expected.
#pragma once
#include "dispatch.h"
#include "handles.h"

#include <initializer_list>
#include <vector>

namespace retouch {

[[noreturn]] void bad_value(const std::string& text); // ValueError
[[noreturn]] void bad_type(const std::string& text);  // TypeError
std::string str(int64_t x);

void check_dtype(const Rows& r, std::initializer_list<DType> allowed, const char* what);
void check_float(const Rows& r, const char* what); // float32 or bfloat16
void check_same(int64_t got, int64_t wanted, const char* what);

template <class T>
const T& as(nb::handle item, const char* what) {
  if (!nb::isinstance<T>(item)) bad_type(what);
  return *nb::inst_ptr<T>(item);
}

// Number of rows a call writes.
int64_t count_rows(const Rows& out, const Index* out_index);

// The entries of an index that is written through: all of them rows of out.
const int32_t* check_target(const Rows& out, const Index* index, const char* what);

// The entries of an index [m, taps] that is read through; none is the identity on m rows.
const int32_t* check_gather(const Rows& rows, const Index* index, int64_t m, int64_t taps,
                            const char* what);

// Weights of so many outputs, packed for the instruction set in use.
void check_packed(const PackedWeights& weights, int64_t outputs);

// Samples whose rows are bounds[b] .. bounds[b + 1] - 1.
int64_t check_bounds(const Index& bounds, const char* kernel);

// Calls a kernel of the instruction set in use.
template <class Args>
void launch(void (*kernel)(const Args&, int), const Args& args) {
  kernel(args, threads());
}

// What a list among the arguments holds: rows, each with the index of those that are meant.
struct List {
  struct Item {
    const Rows* rows;
    const Index* index;
  };
  std::vector<Item> items;
  nb::object held; // the list, as it was

 protected:
  explicit List(nb::handle list) : held(nb::tuple(list.is_none() ? nb::make_tuple() : list)) {}
};

struct RowList : List {
  explicit RowList(nb::handle list); // of Rows, or (Rows, Index or None)
};

struct VectorList : List {
  explicit VectorList(nb::handle list); // of Rows
};

struct PartList : List {
  explicit PartList(nb::handle list); // of Rows
};

// Arguments of a row program, and the memory of their lists.
class ProgramCall {
 public:
  ProgramArgs args{};

  // An epilogue has an accumulator and sees some columns at a time; a map has neither limit.
  ProgramCall(const Rows& out, const Index* out_index, const Program* program, const RowList& rows,
              const VectorList& vectors, const Index* sample, bool epilogue, int64_t heads = 1);

 private:
  void set_code(const Program* program, bool epilogue);
  void add_rows(const List::Item& item, int64_t m);
  int32_t set_sample(const Index* sample, int64_t m);
  void add_vector(const Rows& v, int32_t last_sample);
  void check_width(bool epilogue, int64_t heads);
  void check_count(const Program* program) const;

  std::vector<RowOperand> rows;
  std::vector<Matrix> vectors;
};

} // namespace retouch
