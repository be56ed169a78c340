// Argument checks and calls of the kernels. Every limit is checked here, in release builds too.
#include "arguments.h"
#include "bindings.h"

#include "copy.h"
#include "dispatch.h"
#include "fold_norm.h"
#include "handles.h"
#include "probes.h"
#include "shuffle.h"

#include <algorithm>
#include <vector>

namespace retouch {

using namespace nb::literals;

namespace {

void row_map(const Rows& out, const Index* out_index, const Program* program, nb::handle rows,
             nb::handle vectors, const Index* sample) {
  ProgramCall call(out, out_index, program, rows, vectors, sample, false);
  RowMapArgs args{count_rows(out, out_index), call.args};
  if (!out.m.channels) return;
  nb::gil_scoped_release release;
  kernels().row_map(args, threads());
}

void gemm(const Rows& out, const Index* out_index, const Rows& a, const Index* index,
          const Packed& packed, const Program* program, nb::handle rows, nb::handle vectors,
          const Index* sample) {
  const PackedWeights& w = packed.weights;
  ProgramCall call(out, out_index, program, rows, vectors, sample, true);
  int64_t m = count_rows(out, out_index);
  check_same(out.m.channels, w.outputs, "channels of out");
  check_same(a.m.channels, w.channels * w.groups, "channels of a");
  if (a.m.dtype != w.dtype)
    bad_type("a is " + dtype_name(a.m.dtype) + ", the packed weights are " + dtype_name(w.dtype));
  if (w.lanes != kernels().lanes || w.max_vectors != kernels().max_vectors)
    bad_value("the weights were packed for another instruction set: pack them again");
  GemmArgs args{m, a.m, check_gather(a, index, m, w.taps, "index"), w, call.args};
  nb::gil_scoped_release release;
  kernels().gemm(args, threads());
}

void depthwise(const Rows& out, const Index* out_index, const Rows& a, const Index* index,
               const Rows& weight, const Program* program, nb::handle rows, nb::handle vectors,
               const Index* sample) {
  ProgramCall call(out, out_index, program, rows, vectors, sample, true);
  int64_t m = count_rows(out, out_index);
  check_float(a, "a");
  check_dtype(weight, {DType::f32}, "weight");
  check_same(a.m.channels, out.m.channels, "channels of a");
  check_same(weight.m.channels, out.m.channels, "channels of weight");
  const int32_t* data = check_gather(a, index, m, weight.m.rows, "index");
  DepthwiseArgs args{m, a.m, {data, m, weight.m.rows}, weight.m, call.args};
  if (!out.m.channels) return;
  nb::gil_scoped_release release;
  kernels().depthwise(args, threads());
}

void pool(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
          const Rows* weights) {
  check_float(out, "out");
  check_float(a, "a");
  int64_t m = count_rows(out, out_index);
  check_same(a.m.channels, out.m.channels, "channels of a");
  const int32_t* data = check_gather(a, &index, m, index.table.taps, "index");
  if (weights) {
    check_dtype(*weights, {DType::f32}, "weights");
    check_same(weights->m.rows, m, "rows of weights");
    check_same(weights->m.channels, index.table.taps, "taps of weights");
  }
  PoolArgs args{m,
                out.m,
                check_target(out, out_index, "out_index"),
                a.m,
                {data, m, index.table.taps},
                weights ? &weights->m : nullptr};
  if (!out.m.channels || !index.table.taps) return;
  nb::gil_scoped_release release;
  kernels().pool(args, threads());
}

void attention(const Rows& out, const Index* out_index, const Rows& q, const Index* q_index,
               const Rows& k, const Rows& v, int64_t heads, double scale, const Index& bounds) {
  for (const Rows* r : {&out, &q, &k, &v}) check_float(*r, "attention");
  if (k.m.dtype != q.m.dtype || v.m.dtype != q.m.dtype)
    bad_type("attention: q, k and v must have one dtype");
  if (heads < 1 || q.m.channels % heads != 0 || v.m.channels % heads != 0)
    bad_value("attention: " + str(q.m.channels) + " and " + str(v.m.channels) +
              " channels do not divide into " + str(heads) + " heads");
  int64_t m = count_rows(out, out_index), samples = bounds.table.count - 1;
  check_same(k.m.channels, q.m.channels, "channels of k");
  check_same(out.m.channels, v.m.channels, "channels of out");
  check_same(v.m.rows, k.m.rows, "rows of v");
  if (samples < 1 || k.m.rows % samples != 0 || k.m.rows == 0)
    bad_value("attention: " + str(k.m.rows) + " keys do not divide into " + str(samples) +
              " samples");
  const int32_t* b = bounds.table.data;
  bool ordered = b[0] == 0 && b[samples] == m;
  for (int64_t i = 0; i < samples; ++i) ordered &= b[i] <= b[i + 1];
  if (!ordered) bad_value("attention: bounds must rise from 0 to the number of queries " + str(m));
  AttentionArgs args{out.m,
                     q.m,
                     k.m,
                     v.m,
                     check_target(out, out_index, "out_index"),
                     check_gather(q, q_index, m, 1, "q_index"),
                     heads,
                     q.m.channels / heads,
                     v.m.channels / heads,
                     samples,
                     k.m.rows / samples,
                     b,
                     float(scale)};
  if (!m || !q.m.channels || !v.m.channels) return;
  nb::gil_scoped_release release;
  kernels().attention(args, threads());
}

int64_t check_bounds(const Index& bounds, const char* kernel) {
  int64_t samples = bounds.table.count - 1;
  const int32_t* b = bounds.table.data;
  bool ordered = samples >= 1 && b[0] == 0;
  for (int64_t i = 0; ordered && i < samples; ++i) ordered = b[i] <= b[i + 1];
  if (!ordered) bad_value(std::string(kernel) + ": bounds must start at 0 and must not fall");
  return samples;
}

void channel_sums(const Rows& sums, const Rows& x, const Index* index, const Index& bounds,
                  double sign) {
  check_dtype(sums, {DType::f64}, "sums");
  check_float(x, "x");
  int64_t samples = check_bounds(bounds, "channel_sums");
  const int32_t* b = bounds.table.data;
  check_same(sums.m.rows, samples, "rows of sums");
  check_same(sums.m.channels, 2 * x.m.channels, "channels of sums");
  ChannelSumsArgs args{sums.m, x.m,     check_gather(x, index, b[samples], 1, "index"),
                       b,      samples, sign};
  if (!x.m.channels) return;
  nb::gil_scoped_release release;
  kernels().channel_sums(args, threads());
}

const float* norm_vector(const Rows* v, int64_t channels, const char* what) {
  if (!v) return nullptr;
  check_dtype(*v, {DType::f32}, what);
  check_same(v->m.channels, channels, what);
  if (v->m.rows < 1) bad_value(std::string(what) + " is empty");
  return reinterpret_cast<const float*>(v->m.data);
}

// float64 [samples, 2 * channels of the part], the channels of all parts together as given.
std::vector<Matrix> sums_of(nb::handle parts, int64_t samples, int64_t channels) {
  int64_t found = 0;
  std::vector<Matrix> list;
  for (nb::handle item : nb::iter(parts)) {
    const Rows& part = as<Rows>(item, "parts: expected a list of Rows");
    check_dtype(part, {DType::f64}, "parts");
    check_same(part.m.rows, samples, "rows of a part");
    found += part.m.channels / 2;
    list.push_back(part.m);
  }
  if (list.size()) check_same(found, channels, "channels of the parts together");
  return list;
}

void fold(const Rows& out, nb::handle parts, nb::handle shifts, int64_t groups, double count,
          double eps, const Rows* gamma, const Rows* beta) {
  check_dtype(out, {DType::f32}, "out");
  int64_t channels = out.m.channels / 2;
  std::vector<Matrix> list = sums_of(parts, out.m.rows, channels);
  std::vector<Matrix> moved = sums_of(shifts, out.m.rows, channels);
  if (list.empty()) bad_value("fold_norm: there are no parts");
  if (!moved.empty()) {
    check_same(int64_t(moved.size()), int64_t(list.size()), "number of shifts");
    for (size_t i = 0; i < list.size(); ++i)
      check_same(moved[i].channels, list[i].channels, "channels of a shift");
  }
  if (groups < 1 || channels % groups != 0)
    bad_value("fold_norm: " + str(channels) + " channels do not divide into " + str(groups) +
              " groups");
  if (!(count > 0)) bad_value("fold_norm: count must be positive");
  FoldNormArgs args{out.m,
                    list.data(),
                    moved.empty() ? nullptr : moved.data(),
                    int64_t(list.size()),
                    groups,
                    count,
                    eps,
                    norm_vector(gamma, channels, "channels of gamma"),
                    norm_vector(beta, channels, "channels of beta")};
  nb::gil_scoped_release release;
  fold_norm(args);
}

void fit(const Rows& out, const Rows& before, const Index* before_index, const Rows& after,
         const Index* after_index, const Index& bounds) {
  check_dtype(out, {DType::f32}, "fit");
  check_float(before, "before");
  check_float(after, "after");
  int64_t samples = check_bounds(bounds, "fit_probes"), rows = bounds.table.data[samples];
  check_same(out.m.rows, samples, "rows of fit");
  check_same(out.m.channels, 2 * before.m.channels, "channels of fit");
  check_same(after.m.channels, before.m.channels, "channels of after");
  FitProbesArgs args{out.m,
                     {before.m, check_gather(before, before_index, rows, 1, "before_index")},
                     {after.m, check_gather(after, after_index, rows, 1, "after_index")},
                     bounds.table.data,
                     samples};
  nb::gil_scoped_release release;
  fit_probes(args);
}

void move(const Rows& shifts, const Rows& sums, const Rows& scale, const Rows& shift, double count,
          const Index& bounds) {
  int64_t samples = check_bounds(bounds, "move_sums");
  for (const Rows* r : {&shifts, &sums}) {
    check_dtype(*r, {DType::f64}, "sums");
    check_same(r->m.channels, 2 * scale.m.channels, "channels of sums");
  }
  for (const Rows* r : {&scale, &shift}) check_dtype(*r, {DType::f32}, "fit");
  check_same(shift.m.channels, scale.m.channels, "channels of shift");
  for (const Rows* r : {&shifts, &sums, &scale, &shift})
    check_same(r->m.rows, samples, "rows of sums and fit");
  MoveSumsArgs args{shifts.m, sums.m, scale.m, shift.m, count, bounds.table.data};
  nb::gil_scoped_release release;
  move_sums(args);
}

void copy(const Rows& dst, const Index* dst_index, const Rows& src, const Index* src_index) {
  bool same = dst.m.dtype == src.m.dtype;
  if (!same && (dst.m.dtype == DType::f64 || src.m.dtype == DType::f64))
    bad_type("copy_rows: the dtypes differ, and float64 is not converted");
  check_same(src.m.channels, dst.m.channels, "channels of src");
  int64_t m = dst_index ? dst_index->table.count : src_index ? src_index->table.count : src.m.rows;
  if (m > dst.m.rows && !dst_index) bad_value("copy_rows: more rows than dst has");
  CopyArgs args{dst.m, src.m, check_target(dst, dst_index, "dst_index"),
                check_gather(src, src_index, m, 1, "src_index"), m};
  nb::gil_scoped_release release;
  same ? copy_rows(args, threads()) : kernels().convert_rows(args, threads());
}

void swap(const Rows& kept, const Index* index, const Rows& saved) {
  if (kept.m.dtype != saved.m.dtype) bad_type("swap_rows: the dtypes differ");
  check_same(saved.m.channels, kept.m.channels, "channels of saved");
  int64_t m = index ? index->table.count : kept.m.rows;
  if (m > saved.m.rows) bad_value("swap_rows: saved has fewer rows than the index");
  CopyArgs args{kept.m, saved.m, check_target(kept, index, "index"), nullptr, m};
  nb::gil_scoped_release release;
  swap_rows(args, threads());
}

void check_span(int64_t start, int64_t count, int64_t stride, int64_t limit, const char* what) {
  if (start < 0 || stride < 1 || start + (count - 1) * stride >= limit)
    bad_value(std::string(what) + ": channel " + str(start + (count - 1) * stride) +
              " is outside a row of " + str(limit));
}

ShuffleArgs shuffle_args(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                         int64_t outer, int64_t stride) {
  check_float(out, "out");
  if (out.m.dtype != a.m.dtype) bad_type("shuffle: the dtypes differ");
  int64_t m = count_rows(out, out_index);
  check_gather(a, &index, m, index.table.taps, "index");
  return {out.m, a.m,   check_target(out, out_index, "out_index"), nullptr, index.table, m,
          outer, stride};
}

void shuffle_rows(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                  const Index& phase, int64_t phase_stride, int64_t channel_stride) {
  ShuffleArgs args = shuffle_args(out, out_index, a, index, phase_stride, channel_stride);
  check_same(index.table.taps, 1, "taps of the index");
  check_same(phase.table.count, args.m, "length of phase");
  if (phase.min < 0 || phase_stride < 0) bad_value("shuffle: phases must not be negative");
  if (!args.m || !out.m.channels) return;
  check_span(phase.max * phase_stride, out.m.channels, channel_stride, a.m.channels, "shuffle");
  args.phase = phase.table.data;
  nb::gil_scoped_release release;
  shuffle(args, threads());
}

void unshuffle_rows(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                    int64_t tap_stride, int64_t channel_stride) {
  ShuffleArgs args = shuffle_args(out, out_index, a, index, tap_stride, channel_stride);
  if (!args.m || !a.m.channels || !index.table.taps) return;
  if (tap_stride < 0) bad_value("unshuffle: tap_stride must not be negative");
  check_span((index.table.taps - 1) * tap_stride, a.m.channels, channel_stride, out.m.channels,
             "unshuffle");
  nb::gil_scoped_release release;
  unshuffle(args, threads());
}

} // namespace

void bind_ops(nb::module_& m) {
  auto none = nb::none();
  m.def("row_map", &row_map, "out"_a, "out_index"_a.none(), "program"_a.none(), "rows"_a = none,
        "vectors"_a = none, "sample"_a.none() = none);
  m.def("gemm", &gemm, "out"_a, "out_index"_a.none(), "a"_a, "index"_a.none(), "packed"_a,
        "program"_a.none() = none, "rows"_a = none, "vectors"_a = none, "sample"_a.none() = none);
  m.def("depthwise", &depthwise, "out"_a, "out_index"_a.none(), "a"_a, "index"_a.none(), "weight"_a,
        "program"_a.none() = none, "rows"_a = none, "vectors"_a = none, "sample"_a.none() = none);
  m.def("pool", &pool, "out"_a, "out_index"_a.none(), "a"_a, "index"_a, "weights"_a.none() = none);
  m.def("attention", &attention, "out"_a, "out_index"_a.none(), "q"_a, "q_index"_a.none(), "k"_a,
        "v"_a, "heads"_a, "scale"_a, "bounds"_a);
  m.def("channel_sums", &channel_sums, "sums"_a, "x"_a, "index"_a.none(), "bounds"_a,
        "sign"_a = 1.0);
  m.def("fit_probes", &fit, "fit"_a, "before"_a, "before_index"_a.none(), "after"_a,
        "after_index"_a.none(), "bounds"_a);
  m.def("move_sums", &move, "shifts"_a, "sums"_a, "scale"_a, "shift"_a, "count"_a, "bounds"_a);
  m.def("fold_norm", &fold, "out"_a, "parts"_a, "shifts"_a, "groups"_a, "count"_a, "eps"_a,
        "gamma"_a.none() = none, "beta"_a.none() = none);
  m.def("copy_rows", &copy, "dst"_a, "dst_index"_a.none(), "src"_a, "src_index"_a.none() = none);
  m.def("swap_rows", &swap, "kept"_a, "index"_a.none(), "saved"_a);
  m.def("shuffle", &shuffle_rows, "out"_a, "out_index"_a.none(), "a"_a, "index"_a, "phase"_a,
        "phase_stride"_a, "channel_stride"_a);
  m.def("unshuffle", &unshuffle_rows, "out"_a, "out_index"_a.none(), "a"_a, "index"_a,
        "tap_stride"_a, "channel_stride"_a);
}

} // namespace retouch
