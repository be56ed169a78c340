#ifndef RETOUCH_BIND
#include "convert.h"
#include "ops.h"
#include "parallel.h"

namespace retouch::RETOUCH_NS {

namespace {

struct Lines {
  char* data;
  int64_t stride, bytes;

  explicit Lines(const Matrix& m)
      : data(m.data), stride(m.ld * item_size(m)), bytes(m.channels * item_size(m)) {}
  char* at(int64_t i) const { return data + i * stride; }
};

int team(int64_t bytes, int threads) {
  return bytes < (64 << 10) ? 1 : threads;
}

void swap_line(char* a, char* b, int64_t bytes) {
  char block[256];
  for (int64_t i = 0; i < bytes; i += sizeof(block)) {
    size_t n = size_t(min_of(sizeof(block), bytes - i));
    memcpy(block, a + i, n);
    memcpy(a + i, b + i, n);
    memcpy(b + i, block, n);
  }
}

} // namespace

// dst[dst_index[m]] = src[src_index[m]]; -1 in src_index copies zeros.
void copy_rows(const CopyArgs& c, int threads) {
  if (c.dst.dtype != c.src.dtype) return convert_rows(c, threads);
  Lines dst(c.dst);
  parallel_each(team(c.m * dst.bytes, threads), c.m, [&](int64_t m) {
    char* to = dst.at(c.dst_index ? c.dst_index[m] : m);
    int64_t line = c.src_index ? c.src_index[m] : m;
    if (line < 0)
      memset(to, 0, size_t(dst.bytes));
    else
      memcpy(to, Lines(c.source(m)).at(line), size_t(dst.bytes));
  });
}

// Exchanges dst[dst_index[m]] and src[m].
void swap_rows(const CopyArgs& c, int threads) {
  Lines dst(c.dst), src(c.src);
  parallel_each(team(c.m * dst.bytes, threads), c.m, [&](int64_t m) {
    swap_line(dst.at(c.dst_index ? c.dst_index[m] : m), src.at(m), dst.bytes);
  });
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"
#include "parallel.h"

#include <algorithm>

namespace retouch {

using namespace nb::literals;

namespace {

constexpr int64_t piece_bytes = 128 << 10;

// m: the rows that are copied.
CopyArgs check_copy(const Rows& dst, const Index* dst_index, const Rows& src,
                    const Index* src_index, int64_t m) {
  bool same = dst.m.dtype == src.m.dtype;
  if (!same && (dst.m.dtype == DType::f64 || src.m.dtype == DType::f64))
    bad_type("copy_rows: the dtypes differ, and float64 is not converted");
  const Rows &levels = dst.m.dtype == DType::i8 ? dst : src, &plain = &levels == &dst ? src : dst;
  int64_t scales = levels.m.channels - plain.m.channels, parts = scales / scale_bytes;
  bool read_by_products = dst.m.dtype == DType::i8 && scales == product_bytes;
  if (same || levels.m.dtype != DType::i8)
    check_same(src.m.channels, dst.m.channels, "channels of src");
  else if (!read_by_products && (parts < 1 || scales % scale_bytes || plain.m.channels % parts))
    bad_value("copy_rows: " + str(levels.m.channels) + " columns of int8 for " +
              str(plain.m.channels) + " channels");
  if (m > dst.m.rows && !dst_index) bad_value("copy_rows: more rows than dst has");
  return {dst.m, src.m, check_target(dst, dst_index, "dst_index"),
          check_gather(src, src_index, m, 1, "src_index"), m};
}

CopyArgs check_copy(const Rows& dst, const Index* dst_index, const Rows& src,
                    const Index* src_index) {
  int64_t m = dst_index ? dst_index->table.count : src_index ? src_index->table.count : src.m.rows;
  return check_copy(dst, dst_index, src, src_index, m);
}

void call_copy_rows(const Rows& dst, const Index* dst_index, const Rows& src,
                    const Index* src_index) {
  launch(kernels().copy_rows, check_copy(dst, dst_index, src, src_index));
}

int64_t line_bytes(const Matrix& m) {
  return m.channels * dtype_size(m.dtype);
}

// One operand of a copy from some row of the call on.
void skip(Matrix& rows, const int32_t*& index, int64_t count) {
  if (index)
    index += count;
  else
    rows.data += count * rows.ld * dtype_size(rows.dtype);
}

// Adds a copy in pieces that threads can share.
void add_pieces(std::vector<CopyArgs>& pieces, const CopyArgs& whole) {
  int64_t bytes = std::max<int64_t>(line_bytes(whole.dst), 1);
  int64_t most = std::max<int64_t>(piece_bytes / bytes, 1);
  CopyArgs piece = whole;
  for (int64_t left = whole.m; left > 0; left -= most) {
    piece.m = std::min(left, most);
    pieces.push_back(piece);
    skip(piece.dst, piece.dst_index, piece.m);
    skip(piece.src, piece.src_index, piece.m);
    if (piece.which) piece.which += piece.m;
  }
}

const Index* index_or_none(nb::handle item) {
  return item.is_none() ? nullptr : &as<Index>(item, "copy_many: expected an Index or None");
}

void copy_all(const std::vector<CopyArgs>& copies) {
  std::vector<CopyArgs> pieces;
  int64_t bytes = 0;
  for (const CopyArgs& each : copies) {
    bytes += each.m * line_bytes(each.dst);
    add_pieces(pieces, each);
  }
  parallel(bytes < piece_bytes ? 1 : threads(), int64_t(pieces.size()),
           [&](int64_t i) { kernels().copy_rows(pieces[size_t(i)], 1); });
}

nb::handle item_of(nb::handle copy, int i) {
  return PyTuple_GetItem(copy.ptr(), i);
}

// The items of copies, which are tuples of the arguments of copy_rows.
template <class Each>
void each_copy(nb::handle copies, const Each& each) {
  for (nb::handle item : nb::iter(copies)) {
    if (!PyTuple_Check(item.ptr()) || PyTuple_Size(item.ptr()) != 4)
      bad_type("copy_many: expected tuples of the arguments of copy_rows");
    each(item);
  }
}

void call_copy_many(nb::handle copies) {
  std::vector<CopyArgs> checked;
  std::vector<nb::object> held;
  each_copy(copies, [&](nb::handle copy) {
    checked.push_back(check_copy(
        as<Rows>(item_of(copy, 0), "copy_many: expected Rows"), index_or_none(item_of(copy, 1)),
        as<Rows>(item_of(copy, 2), "copy_many: expected Rows"), index_or_none(item_of(copy, 3))));
    held.push_back(nb::borrow(copy));
  });
  Unlocked unlocked;
  copy_all(checked);
}

// Copies of which ends may be items of lists that each run is given: (list, item). A source may be
// a list of them; its index is then which of them, and the row there, of each row of the target.
class Copies {
 public:
  explicit Copies(nb::handle copies) {
    each_copy(copies, [&](nb::handle copy) {
      list.push_back(PyList_Check(item_of(copy, 2).ptr()) ? several(copy) : one(copy));
      sources += list.back().sources.size();
      held.push_back(nb::borrow(copy));
    });
  }

  void run(nb::args lists) const {
    std::vector<CopyArgs> checked;
    std::vector<Matrix> several;
    checked.reserve(list.size());
    several.reserve(sources);
    for (const Copy& each : list) {
      const Rows& dst = each.dst.of(lists);
      if (each.which)
        checked.push_back(of_several(each, dst, lists, several));
      else
        checked.push_back(
            check_copy(dst, each.dst_index, each.sources[0].of(lists), each.src_index));
    }
    Unlocked unlocked;
    copy_all(checked);
  }

  size_t size() const { return list.size(); }

 private:
  struct End {
    const Rows* rows;
    Py_ssize_t list, item;

    const Rows& of(const nb::args& lists) const {
      if (rows) return *rows;
      PyObject* given = list < Py_ssize_t(lists.size()) ? lists[size_t(list)].ptr() : nullptr;
      if (!given || !PyList_Check(given) || item >= PyList_Size(given))
        bad_value("Copies: there is no item " + str(item) + " in list " + str(list));
      return as<Rows>(PyList_GetItem(given, item), "Copies: expected lists of Rows");
    }
  };
  struct Copy {
    End dst;
    const Index* dst_index;
    std::vector<End> sources;
    const Index* src_index;
    const Index* which;        // of the sources each row is of; none: there is one
    std::vector<int32_t> last; // row of each of several sources that is read
  };

  static End end(nb::handle given) {
    if (nb::isinstance<Rows>(given)) return {nb::inst_ptr<Rows>(given), 0, 0};
    End found{nullptr, -1, -1};
    if (PyTuple_Check(given.ptr()) && PyTuple_Size(given.ptr()) == 2)
      found = {nullptr, nb::cast<Py_ssize_t>(item_of(given, 0)),
               nb::cast<Py_ssize_t>(item_of(given, 1))};
    if (found.list < 0 || found.item < 0) bad_type("Copies: expected Rows, or (list, item)");
    return found;
  }

  static Copy one(nb::handle copy) {
    return {end(item_of(copy, 0)),
            index_or_none(item_of(copy, 1)),
            {end(item_of(copy, 2))},
            index_or_none(item_of(copy, 3)),
            nullptr,
            {}};
  }

  static Copy several(nb::handle copy) {
    nb::handle pair = item_of(copy, 3);
    if (!PyTuple_Check(pair.ptr()) || PyTuple_Size(pair.ptr()) != 2)
      bad_type("Copies: expected (which, rows) as the index of several sources");
    const char* expected = "Copies: expected an Index";
    const Index &which = as<Index>(item_of(pair, 0), expected),
                &rows = as<Index>(item_of(pair, 1), expected);
    Copy made{end(item_of(copy, 0)), index_or_none(item_of(copy, 1)), {}, &rows, &which, {}};
    for (nb::handle source : nb::iter(item_of(copy, 2))) made.sources.push_back(end(source));
    if (made.sources.empty()) bad_value("Copies: there is no source");
    int64_t m = rows.table.count;
    check_same(which.table.count, m, "length of which");
    if (made.dst_index) check_same(made.dst_index->table.count, m, "length of dst_index");
    if (which.min < 0 || which.max >= int64_t(made.sources.size()))
      bad_value("Copies: entries of which are not all in 0 .. " + str(made.sources.size() - 1));
    if (rows.min < 0) bad_value("Copies: rows of several sources must not be negative");
    made.last.resize(made.sources.size(), -1);
    for (int64_t i = 0; i < m; ++i) {
      int32_t& last = made.last[size_t(which.table.data[i])];
      last = std::max(last, rows.table.data[i]);
    }
    return made;
  }

  static CopyArgs of_several(const Copy& copy, const Rows& dst, const nb::args& lists,
                             std::vector<Matrix>& several) {
    const Matrix* first = several.data() + several.size();
    int64_t m = copy.which->table.count;
    CopyArgs args{};
    for (size_t i = 0; i < copy.sources.size(); ++i) {
      const Rows& source = copy.sources[i].of(lists);
      args = check_copy(dst, copy.dst_index, source, nullptr, 0);
      if (i > 0 && source.m.dtype != first->dtype)
        bad_type("Copies: several sources of one copy are of different dtypes");
      if (copy.last[i] >= source.m.rows)
        bad_value("Copies: row " + str(copy.last[i]) + " of a source of " + str(source.m.rows));
      several.push_back(source.m);
    }
    if (m > dst.m.rows && !copy.dst_index) bad_value("copy_rows: more rows than dst has");
    args.src = *first;
    args.src_index = copy.src_index->table.data;
    args.m = m;
    args.sources = first;
    args.which = copy.which->table.data;
    return args;
  }

  std::vector<Copy> list;
  size_t sources = 0;
  std::vector<nb::object> held; // the handles
};

void call_swap_rows(const Rows& kept, const Index* index, const Rows& saved) {
  if (kept.m.dtype != saved.m.dtype) bad_type("swap_rows: the dtypes differ");
  check_same(saved.m.channels, kept.m.channels, "channels of saved");
  int64_t m = index ? index->table.count : kept.m.rows;
  if (m > saved.m.rows) bad_value("swap_rows: saved has fewer rows than the index");
  CopyArgs args{kept.m, saved.m, check_target(kept, index, "index"), nullptr, m};
  launch(kernels().swap_rows, args);
}

} // namespace

void bind_copy_rows(nb::module_& m) {
  bind(m, "copy_rows", call_copy_rows, "dst"_a, "dst_index"_a.none(), "src"_a,
       "src_index"_a.none() = nb::none());
  m.def("copy_many", &call_copy_many, "copies"_a);
  nb::class_<Copies>(
      m, "Copies",
      "Arguments of copy_many; (n, i) there is item i of the n-th list of a run, and a "
      "list of sources has (which of them, row there) as its index.")
      .def(nb::init<nb::handle>(), "copies"_a)
      .def("__call__", &Copies::run, "lists"_a)
      .def("__len__", &Copies::size);
}

void bind_swap_rows(nb::module_& m) {
  bind(m, "swap_rows", call_swap_rows, "kept"_a, "index"_a.none(), "saved"_a);
}

} // namespace retouch

#endif
