#include "arguments.h"

#include <algorithm>

namespace retouch {

namespace {

const Step store_acc[1] = {{Op::copy, {{Source::acc, 0, 0, 0}, {}, {}}, -1, 0}};

} // namespace

void bad_value(const std::string& text) {
  throw nb::value_error(text.c_str());
}
void bad_type(const std::string& text) {
  throw nb::type_error(text.c_str());
}
std::string str(int64_t x) {
  return std::to_string(x);
}

void check_dtype(const Rows& r, std::initializer_list<DType> allowed, const char* what) {
  for (DType d : allowed)
    if (r.m.dtype == d) return;
  bad_type(std::string(what) + ": dtype " + dtype_name(r.m.dtype) + " is not supported here");
}

void check_float(const Rows& r, const char* what) {
  check_dtype(r, {DType::f32, DType::bf16}, what);
}

void check_same(int64_t got, int64_t wanted, const char* what) {
  if (got != wanted) bad_value(std::string(what) + " is " + str(got) + ", expected " + str(wanted));
}

int64_t count_rows(const Rows& out, const Index* out_index) {
  return out_index ? out_index->table.count : out.m.rows;
}

const int32_t* check_target(const Rows& out, const Index* index, const char* what) {
  if (!index) return nullptr;
  if (index->table.taps != 1) bad_value(std::string(what) + ": expected an index of shape [M]");
  if (index->min < 0 || index->max >= out.m.rows)
    bad_value(std::string(what) + ": entries " + str(index->min) + " .. " + str(index->max) +
              " are not all in 0 .. " + str(out.m.rows - 1));
  return index->table.data;
}

const int32_t* check_gather(const Rows& rows, const Index* index, int64_t m, int64_t taps,
                            const char* what) {
  if (!index) {
    if (taps != 1) bad_value(std::string(what) + ": an index is needed for " + str(taps) + " taps");
    if (m > rows.m.rows)
      bad_value(std::string(what) + ": " + str(m) + " rows wanted of " + str(rows.m.rows));
    return nullptr;
  }
  if (index->table.count != m || index->table.taps != taps)
    bad_value(std::string(what) + ": index of shape [" + str(index->table.count) + ", " +
              str(index->table.taps) + "], expected [" + str(m) + ", " + str(taps) + "]");
  if (index->max >= rows.m.rows)
    bad_value(std::string(what) + ": entry " + str(index->max) + " of the index is not below " +
              str(rows.m.rows) + " rows");
  return index->table.data;
}

void check_packed(const PackedWeights& weights, int64_t outputs) {
  check_same(outputs, weights.outputs, "channels of out");
  if (weights.lanes != kernels().lanes || weights.max_vectors != kernels().max_vectors)
    bad_value("the weights were packed for another instruction set: pack them again");
}

int64_t check_bounds(const Index& bounds, const char* kernel) {
  int64_t samples = bounds.table.count - 1;
  const int32_t* b = bounds.table.data;
  bool ordered = samples >= 1 && b[0] == 0;
  for (int64_t i = 0; ordered && i < samples; ++i) ordered = b[i] <= b[i + 1];
  if (!ordered) bad_value(std::string(kernel) + ": bounds must start at 0 and must not fall");
  return samples;
}

RowList::RowList(nb::handle list) : List(list) {
  for (nb::handle item : nb::borrow<nb::tuple>(held)) {
    if (nb::isinstance<Rows>(item)) {
      items.push_back({nb::inst_ptr<Rows>(item), nullptr});
      continue;
    }
    if (!PyTuple_Check(item.ptr()) || PyTuple_Size(item.ptr()) != 2)
      bad_type("rows: expected a list of (Rows, Index or None)");
    const char* what = "rows: expected (Rows, Index or None)";
    nb::handle second = PyTuple_GetItem(item.ptr(), 1);
    items.push_back({&as<Rows>(PyTuple_GetItem(item.ptr(), 0), what),
                     second.is_none() ? nullptr : &as<Index>(second, what)});
  }
}

VectorList::VectorList(nb::handle list) : List(list) {
  for (nb::handle item : nb::borrow<nb::tuple>(held))
    items.push_back({&as<Rows>(item, "vectors: expected a list of Rows"), nullptr});
}

PartList::PartList(nb::handle list) : List(list) {
  for (nb::handle item : nb::borrow<nb::tuple>(held))
    items.push_back({&as<Rows>(item, "parts: expected a list of Rows"), nullptr});
}

ProgramCall::ProgramCall(const Rows& out, const Index* out_index, const Program* program,
                         const RowList& row_list, const VectorList& vector_list,
                         const Index* sample, bool epilogue, int64_t heads) {
  check_float(out, "out");
  int64_t m = count_rows(out, out_index);
  args.out = out.m;
  args.out_index = check_target(out, out_index, "out_index");
  set_code(program, epilogue);
  for (const List::Item& item : row_list.items) add_rows(item, m);
  int32_t last_sample = set_sample(sample, m);
  for (const List::Item& item : vector_list.items) add_vector(*item.rows, last_sample);
  check_width(epilogue, heads);
  if (program) check_count(program);
  args.rows = rows.data();
  args.vectors = vectors.data();
}

void ProgramCall::set_code(const Program* program, bool epilogue) {
  if (!program) {
    if (!epilogue) bad_value("row_map: a program is needed");
    args.code = {store_acc, 1, 0, 1, false};
    return;
  }
  const CompiledProgram& c = program->compiled;
  if (epilogue && c.whole_row)
    bad_value("layer_norm, rms_norm and row_mean need whole rows: use row_map");
  if (!epilogue && c.uses_acc) bad_value("row_map: 'acc' has no meaning without a product");
  args.code = {c.steps.data(), int32_t(c.steps.size()), c.slots, c.temps, c.whole_row};
}

void ProgramCall::add_rows(const List::Item& item, int64_t m) {
  check_float(*item.rows, "rows");
  rows.push_back({item.rows->m, check_gather(*item.rows, item.index, m, 1, "rows")});
}

int32_t ProgramCall::set_sample(const Index* sample, int64_t m) {
  if (!sample) return 0;
  check_same(sample->table.count * sample->table.taps, m, "length of sample");
  if (sample->min < 0) bad_value("sample: entries must not be negative");
  args.sample = sample->table.data;
  return sample->max;
}

void ProgramCall::add_vector(const Rows& v, int32_t last_sample) {
  check_dtype(v, {DType::f32}, "vectors");
  if (v.m.rows < 1) bad_value("vectors: an operand is empty");
  if (v.m.rows != 1 && v.m.rows <= last_sample)
    bad_value("vectors: " + str(v.m.rows) + " samples, but sample " + str(last_sample) +
              " is used");
  vectors.push_back(v.m);
}

// Registers are as wide as out; only a map may reduce wider rows to an out of one channel. Operands
// are as wide, or as wide as a head, or of one channel.
void ProgramCall::check_width(bool epilogue, int64_t heads) {
  args.width = args.out.channels;
  if (!epilogue && args.width == 1) {
    for (const RowOperand& r : rows) args.width = std::max(args.width, r.rows.channels);
    for (const Matrix& v : vectors) args.width = std::max(args.width, v.channels);
  }
  args.head = args.width / heads;
  for (const RowOperand& r : rows)
    if (r.rows.channels != 1 && r.rows.channels != args.head)
      check_same(r.rows.channels, args.width, "channels of a row operand");
  for (const Matrix& v : vectors)
    if (v.channels != 1 && v.channels != args.head)
      check_same(v.channels, args.width, "width of a vector operand");
}

void ProgramCall::check_count(const Program* program) const {
  const CompiledProgram& c = program->compiled;
  if (int(rows.size()) >= c.rows && int(vectors.size()) >= c.vectors) return;
  bad_value("the program reads " + str(c.rows) + " row operands and " + str(c.vectors) +
            " vectors; got " + str(int64_t(rows.size())) + " and " + str(int64_t(vectors.size())));
}

} // namespace retouch
