#include "calls.h"
#include "dispatch.h"
#include "fingerprint.h"
#include "handles.h"
#include "pack.h"
#include "parallel.h"
#include "runtime.h"

#include <algorithm>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace retouch {

using namespace nb::literals;

namespace {

nb::ndarray<nb::pytorch, uint8_t> empty(int64_t bytes, bool huge) {
  if (bytes < 0) throw nb::value_error("empty: the size must not be negative");
  auto* pages = new Pages(size_t(bytes), huge);
  nb::capsule owner(pages, [](void* p) noexcept { delete static_cast<Pages*>(p); });
  size_t shape[1] = {size_t(bytes)};
  return {pages->data, 1, shape, owner};
}

struct Bytes {
  const void* data;
  size_t count;
  Tensor keep;
};

// The memory of a tensor. Reading PyTorch's own attributes is several times faster than a DLPack
// exchange, and this runs for every parameter of a model.
Bytes memory_of(nb::handle tensor) {
  if (nb::hasattr(tensor, "data_ptr") && nb::cast<bool>(tensor.attr("is_cpu")) &&
      nb::cast<bool>(tensor.attr("is_contiguous")()))
    return {reinterpret_cast<const void*>(nb::cast<uintptr_t>(tensor.attr("data_ptr")())),
            nb::cast<size_t>(tensor.attr("nbytes")),
            {}};
  Tensor t = import_tensor(tensor, "fingerprint");
  std::vector<std::pair<int64_t, int64_t>> dims; // (stride, size)
  for (size_t i = 0; i < t.ndim(); ++i)
    if (t.shape(i) > 1) dims.push_back({t.stride(i), int64_t(t.shape(i))});
  std::sort(dims.begin(), dims.end());
  int64_t next = 1;
  for (auto [stride, size] : dims) {
    if (stride != next) throw nb::value_error("fingerprint: the tensor must be dense in memory");
    next *= size;
  }
  return {t.data(), t.nbytes(), t};
}

uint64_t fingerprint_one(nb::handle tensor) {
  Bytes b = memory_of(tensor);
  Unlocked unlocked;
  return fingerprint(b.data, b.count, 1, threads());
}

// Hashes a sample of many tensors again and again; holds their memory.
struct Sampler {
  std::vector<Bytes> list;
  std::vector<nb::object> tensors;
  int64_t stride;

  Sampler(nb::handle found, int64_t stride) : stride(stride) {
    if (stride < 1) throw nb::value_error("Sampler: the stride must be positive");
    for (nb::handle tensor : nb::iter(found)) {
      list.push_back(memory_of(tensor));
      tensors.push_back(nb::borrow(tensor));
    }
  }

  uint64_t sample() const {
    uint64_t hash = list.size();
    std::vector<uint64_t> parts(list.size());
    int team = list.size() < 16 ? 1 : threads();
    Unlocked unlocked;
    parallel_each(team, int64_t(list.size()), [&](int64_t i) {
      const Bytes& bytes = list[size_t(i)];
      parts[size_t(i)] = fingerprint(bytes.data, bytes.count, stride, team > 1 ? 1 : threads());
    });
    for (uint64_t part : parts) hash = mix_fingerprints(hash, part);
    return hash;
  }
};

PackedWeights checked_shape(int64_t n, int64_t taps, int64_t c, int64_t groups, DType dtype) {
  if (n < 1 || taps < 1 || c < 1) throw nb::value_error("pack: the weight is empty");
  if (groups < 1 || n % groups != 0)
    throw nb::value_error(("pack: " + std::to_string(n) + " outputs do not divide into " +
                           std::to_string(groups) + " groups")
                              .c_str());
  return {nullptr, n, taps, c, groups, dtype, kernels().lanes, kernels().max_vectors};
}

PackedWeights shape_of(const Tensor& t, int64_t groups, DType dtype) {
  if (t.ndim() != 3) throw nb::value_error("pack: expected [outputs, taps, channels per group]");
  return checked_shape(int64_t(t.shape(0)), int64_t(t.shape(1)), int64_t(t.shape(2)), groups,
                       dtype);
}

Packed packed(const PackedWeights& w, const Tensor& t, const float* scales) {
  auto pages = std::make_shared<Pages>(size_t(packed_bytes(w)));
  char* data = pages->data;
  Unlocked unlocked;
  pack_weights(w, t.data(), {t.stride(0), t.stride(1), t.stride(2)}, scales, data, threads());
  return {w, data, std::move(pages)};
}

Packed pack(nb::handle tensor, int64_t groups) {
  Tensor t = import_tensor(tensor, "pack");
  bool is_float = t.dtype() == nb::dtype<float>();
  bool is_bfloat = t.dtype().code == uint8_t(nb::dlpack::dtype_code::Bfloat);
  if (!is_float && !is_bfloat) throw nb::type_error("pack: dtype must be float32 or bfloat16");
  return packed(shape_of(t, groups, is_float ? DType::f32 : DType::bf16), t, nullptr);
}

Packed pack_levels(nb::handle levels, nb::handle scales, int64_t groups) {
  Tensor t = import_tensor(levels, "pack_levels"), s = import_tensor(scales, "pack_levels");
  if (t.dtype() != nb::dtype<int8_t>() || s.dtype() != nb::dtype<float>())
    throw nb::type_error("pack_levels: levels are int8, scales float32");
  PackedWeights w = shape_of(t, groups, DType::i8);
  bool fits = s.ndim() == 2 && int64_t(s.shape(0)) == w.outputs && int64_t(s.shape(1)) == w.taps;
  if (!fits || (w.taps > 1 && s.stride(1) != 1) || (w.outputs > 1 && s.stride(0) != w.taps))
    throw nb::value_error("pack_levels: expected one scale for each output and tap, in order");
  return packed(w, t, static_cast<const float*>(s.data()));
}

Packed packed_from(nb::handle tensor, std::tuple<int64_t, int64_t, int64_t> shape, int64_t groups,
                   const std::string& kind) {
  auto t = std::make_shared<Tensor>(import_tensor(tensor, "packed_from"));
  auto [outputs, taps, channels] = shape;
  PackedWeights w = checked_shape(outputs, taps, channels, groups, named_dtype(kind));
  if (t->dtype() != nb::dtype<uint8_t>() || t->ndim() != 1)
    throw nb::type_error("packed_from: expected memory as uint8 [bytes]");
  if (int64_t(t->shape(0)) != packed_bytes(w))
    throw nb::value_error(("packed_from: " + std::to_string(t->shape(0)) +
                           " bytes, these weights take " + std::to_string(packed_bytes(w)))
                              .c_str());
  if (reinterpret_cast<uintptr_t>(t->data()) % 64 != 0)
    throw nb::value_error("packed_from: the memory is not at a multiple of 64 bytes");
  const char* data = static_cast<const char*>(t->data());
  return {w, data, std::move(t)};
}

template <class Handle>
void point(Handle& handle, const Handle* other) {
  handle = other ? *other : Handle{};
}

// Rows of (offset, rows, channels, dtype) each.
nb::list carve(const Arena& arena, nb::list parts) {
  nb::list found;
  for (nb::handle part : parts) {
    auto [offset, rows, channels, dtype] =
        nb::cast<std::tuple<int64_t, int64_t, int64_t, std::string>>(part);
    found.append(arena.rows(offset, rows, channels, dtype));
  }
  return found;
}

nb::tuple index_shape(const Index& i) {
  return i.dims == 1 ? nb::make_tuple(i.table.count) : nb::make_tuple(i.table.count, i.table.taps);
}

} // namespace

void bind_handles(nb::module_& m) {
  nb::class_<Rows>(m, "Rows", "A row-major [rows, channels] matrix; holds its memory.")
      .def(nb::init<const Rows&>(), "handle"_a)
      .def(nb::init<nb::handle>(), "tensor"_a)
      .def("point", &point<Rows>, "handle"_a.none(),
           "Stands for the same memory as another handle from now on; None: for none.")
      .def("slice", &Rows::slice, "start"_a, "channels"_a)
      .def_prop_ro("rows", [](const Rows& r) { return r.m.rows; })
      .def_prop_ro("channels", [](const Rows& r) { return r.m.channels; })
      .def_prop_ro("ld", [](const Rows& r) { return r.m.ld; })
      .def_prop_ro("dtype", [](const Rows& r) { return dtype_name(r.m.dtype); })
      .def_prop_ro("data_ptr", [](const Rows& r) { return reinterpret_cast<uintptr_t>(r.m.data); })
      .def("tensor", &Rows::tensor, "The same memory as a PyTorch tensor.");
  nb::class_<Arena>(m, "Arena", "uint8 memory that Rows are carved from.")
      .def(nb::init<nb::handle>(), "tensor"_a)
      .def("rows", &Arena::rows, "offset"_a, "rows"_a, "channels"_a, "dtype"_a)
      .def("carve", &carve, "parts"_a, "Rows of each (offset, rows, channels, dtype).")
      .def_prop_ro("nbytes", [](const Arena& a) { return a.bytes; });
  nb::class_<Index>(m, "Index", "int32 [M] or [M, taps]; -1 stands for a row of zeros.")
      .def(nb::init<const Index&>(), "handle"_a)
      .def(nb::init<nb::handle>(), "tensor"_a)
      .def("point", &point<Index>, "handle"_a.none(), "As that of Rows.")
      .def("__len__", [](const Index& i) { return i.table.count; })
      .def_prop_ro("shape", index_shape)
      .def_ro("min", &Index::min)
      .def_ro("max", &Index::max)
      .def("tensor", &Index::tensor, "The same memory as a PyTorch tensor.");
  nb::class_<Program>(m, "Program", "A row program: (op, a, b, imm) instructions.")
      .def(nb::init<nb::handle>(), "instructions"_a)
      .def_prop_ro("rows", [](const Program& p) { return p.compiled.rows; })
      .def_prop_ro("vectors", [](const Program& p) { return p.compiled.vectors; })
      .def_ro("instructions", &Program::instructions, "As they were given.");
  nb::class_<Packed>(m, "Packed", "Weights in the order the matrix kernels read them.")
      .def(nb::init<const Packed&>(), "handle"_a)
      .def("point", &point<Packed>, "handle"_a.none(), "As that of Rows.")
      .def_prop_ro("nbytes", [](const Packed& p) { return packed_bytes(p.weights); })
      .def("memory", &Packed::tensor, "The same memory as a PyTorch tensor, uint8.")
      .def_prop_ro("shape",
                   [](const Packed& p) {
                     return nb::make_tuple(p.weights.outputs, p.weights.taps, p.weights.channels);
                   })
      .def_prop_ro("groups", [](const Packed& p) { return p.weights.groups; })
      .def_prop_ro("dtype", [](const Packed& p) { return dtype_name(p.weights.dtype); });

  m.def("empty", &empty, "nbytes"_a, "huge"_a = true,
        "Uninitialised uint8 memory; if huge, on huge pages where they help.");
  m.def("release_memory", &release_pages,
        "Gives freed memory that is kept for reuse back to the system; returns its bytes.");
  m.def("pack", &pack, "weight"_a, "groups"_a = 1);
  m.def("pack_levels", &pack_levels, "levels"_a, "scales"_a, "groups"_a = 1);
  m.def("packed_from", &packed_from, "memory"_a, "shape"_a, "groups"_a, "dtype"_a,
        "Packed weights over memory that was written from others of that shape.");
  nb::class_<Sampler>(m, "Sampler", "Hashes one of `stride` lines of 64 bytes of tensors.")
      .def(nb::init<nb::handle, int64_t>(), "tensors"_a, "stride"_a)
      .def("__call__", &Sampler::sample);
  m.def("fingerprint", &fingerprint_one, "tensor"_a);
  m.def("set_num_threads", &set_threads, "n"_a);
  m.def("python_ends", &python_ends,
        "To be called at exit: kernels of other threads do not return from then on.");
  m.def("num_threads", &threads);
  m.def("set_isa", &set_isa, "name"_a);
  m.def("isa", [] { return std::string(kernels().isa); });
  m.def("available_isas", &available_isas);
}

#define RETOUCH_KERNEL(name, Args, source) void bind_##name(nb::module_& m);
#include "kernels.inc"

void bind_kernels(nb::module_& m) {
  nb::list names;
#define RETOUCH_KERNEL(name, Args, source)                                                         \
  bind_##name(m);                                                                                  \
  names.append(#name);
#include "kernels.inc"
  m.attr("KERNELS") = nb::tuple(names);
  nb::class_<Calls>(m, "Calls", "Kernel calls that are made in one go.")
      .def(nb::init<>())
      .def("add", &Calls::add, "kernel"_a, "arguments"_a)
      .def("run", &Calls::run)
      .def("__len__", &Calls::size);
}

} // namespace retouch

NB_MODULE(_cpu, m) {
  m.doc() = "Native kernels on rows; the package retouch.kernels.cpu documents them.";
  retouch::bind_handles(m);
  retouch::bind_kernels(m);
}
