#include "handles.h"

#include "pack.h"
#include "runtime.h"

#include <algorithm>
#include <nanobind/stl/string.h>
#include <utility>
#include <vector>

namespace retouch {

namespace {

constexpr nb::dlpack::dtype bfloat{uint8_t(nb::dlpack::dtype_code::Bfloat), 16, 1};
constexpr nb::dlpack::dtype half{uint8_t(nb::dlpack::dtype_code::Float), 16, 1};

DType read_dtype(nb::dlpack::dtype d, const char* what) {
  if (d == nb::dtype<float>()) return DType::f32;
  if (d == nb::dtype<double>()) return DType::f64;
  if (d == bfloat) return DType::bf16;
  if (d == half) return DType::f16;
  if (d == nb::dtype<int8_t>()) return DType::i8;
  throw nb::type_error(
      (std::string(what) + ": dtype must be float32, bfloat16, float16, float64 or int8").c_str());
}

nb::dlpack::dtype dlpack_dtype(DType dtype) {
  const nb::dlpack::dtype types[] = {nb::dtype<float>(), bfloat, half, nb::dtype<double>(),
                                     nb::dtype<int8_t>()};
  return types[int(dtype)];
}

// A tensor [rows, columns], or [rows] of one dimension, that keeps the memory of a handle.
TorchTensor share(const void* data, int64_t rows, int64_t columns, int64_t ld, size_t dims,
                  nb::dlpack::dtype dtype, const std::shared_ptr<void>& memory) {
  auto* held = new std::shared_ptr<void>(memory);
  nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
  const size_t shape[2] = {size_t(rows), size_t(columns)};
  const int64_t strides[2] = {ld, 1};
  return {const_cast<void*>(data), dims, shape, owner, strides, dtype};
}

// A tensor's memory, and what holds it; of more than two dimensions the first ones.
struct View {
  void* data;
  size_t dims;
  int64_t shape[2], strides[2];
  nb::dlpack::dtype dtype;
  std::shared_ptr<void> memory;
};

struct TorchTypes {
  nb::object tensor;
  std::vector<std::pair<nb::object, nb::dlpack::dtype>> dtypes;

  TorchTypes() {
    nb::object torch = nb::module_::import_("torch");
    tensor = torch.attr("Tensor");
    auto add = [&](const char* name, nb::dlpack::dtype dtype) {
      dtypes.emplace_back(torch.attr(name), dtype);
    };
    add("float32", nb::dtype<float>());
    add("float64", nb::dtype<double>());
    add("bfloat16", bfloat);
    add("float16", half);
    add("int32", nb::dtype<int32_t>());
    add("int8", nb::dtype<int8_t>());
    add("uint8", nb::dtype<uint8_t>());
  }
};

// Never destroyed, as the interpreter ends before static objects do.
const TorchTypes& torch_types() {
  static const TorchTypes* types = new TorchTypes;
  return *types;
}

std::shared_ptr<void> hold(nb::handle object) {
  return {object.inc_ref().ptr(), [](void* p) {
            if (!nb::is_alive()) return;
            nb::gil_scoped_acquire gil;
            Py_DECREF(static_cast<PyObject*>(p));
          }};
}

// What PyTorch's own attributes tell of a plain tensor, several times faster than DLPack; false for
// everything else.
bool read_attributes(nb::handle tensor, View& view) {
  const TorchTypes& types = torch_types();
  if (reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) != types.tensor.ptr()) return false;
  if (!nb::cast<bool>(tensor.attr("is_cpu"))) return false;
  nb::object dtype = tensor.attr("dtype");
  for (const auto& [known, found] : types.dtypes) {
    if (!dtype.is(known)) continue;
    nb::object shape = tensor.attr("shape"), strides = tensor.attr("stride")();
    view.dims = nb::len(shape);
    for (size_t i = 0; i < view.dims && i < 2; ++i) {
      view.shape[i] = nb::cast<int64_t>(shape[i]);
      view.strides[i] = nb::cast<int64_t>(strides[i]);
    }
    view.data = reinterpret_cast<void*>(nb::cast<uintptr_t>(tensor.attr("data_ptr")()));
    view.dtype = found;
    view.memory = hold(tensor);
    return true;
  }
  return false;
}

View view_of(nb::handle tensor, const char* what) {
  View view{};
  if (read_attributes(tensor, view)) return view;
  auto t = std::make_shared<Tensor>(import_tensor(tensor, what));
  view.data = const_cast<void*>(t->data());
  view.dims = t->ndim();
  for (size_t i = 0; i < view.dims && i < 2; ++i) {
    view.shape[i] = int64_t(t->shape(i));
    view.strides[i] = t->stride(i);
  }
  view.dtype = t->dtype();
  view.memory = std::move(t);
  return view;
}

} // namespace

Pages::Pages(size_t bytes, bool huge)
    : span(allocate_pages(bytes, huge)), data(static_cast<char*>(span.data)), bytes(bytes) {}
Pages::~Pages() {
  free_pages(span);
}

DType named_dtype(const std::string& name) {
  for (DType d : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i8})
    if (name == dtype_name(d)) return d;
  throw nb::type_error(
      ("dtype '" + name + "' is not float32, bfloat16, float16, float64 or int8").c_str());
}

std::string dtype_name(DType dtype) {
  const char* names[] = {"float32", "bfloat16", "float16", "float64", "int8"};
  return names[int(dtype)];
}

int64_t dtype_size(DType dtype) {
  const int64_t sizes[] = {4, 2, 2, 8, 1};
  return sizes[int(dtype)];
}

Tensor import_tensor(nb::handle tensor, const char* what) {
  nb::object plain = nb::borrow(tensor);
  if (nb::hasattr(tensor, "detach")) plain = tensor.attr("detach")();
  Tensor found;
  if (!nb::try_cast(plain, found))
    throw nb::type_error((std::string(what) + ": expected a tensor in CPU memory").c_str());
  return found;
}

Rows::Rows(nb::handle tensor) {
  View t = view_of(tensor, "Rows");
  if (t.dims != 2)
    throw nb::value_error(
        ("Rows: expected [rows, channels], got " + std::to_string(t.dims) + " dimensions").c_str());
  int64_t rows = t.shape[0], channels = t.shape[1];
  int64_t ld = rows > 1 ? t.strides[0] : std::max<int64_t>(channels, 1);
  if (channels > 1 && t.strides[1] != 1)
    throw nb::value_error("Rows: the channels of a row must be contiguous (channel stride 1); call "
                          ".contiguous() or pass a channels-last view");
  if (ld < channels) throw nb::value_error("Rows: rows overlap (row stride below the channels)");
  m = {static_cast<char*>(t.data), rows, channels, ld, read_dtype(t.dtype, "Rows")};
  memory = std::move(t.memory);
}

Rows Rows::slice(int64_t start, int64_t channels) const {
  if (start < 0 || channels < 0 || start + channels > m.channels)
    throw nb::value_error(("Rows.slice: channels " + std::to_string(start) + " .. " +
                           std::to_string(start + channels) + " are outside 0 .. " +
                           std::to_string(m.channels))
                              .c_str());
  Matrix part = m;
  part.data += start * dtype_size(m.dtype);
  part.channels = channels;
  return {part, memory};
}

Arena::Arena(nb::handle tensor) {
  View t = view_of(tensor, "Arena");
  if (t.dtype != nb::dtype<uint8_t>()) throw nb::type_error("Arena: dtype must be uint8");
  if (t.dims != 1 || (t.shape[0] > 1 && t.strides[0] != 1))
    throw nb::value_error("Arena: expected one contiguous dimension");
  data = static_cast<char*>(t.data);
  bytes = t.shape[0];
  memory = std::move(t.memory);
}

Rows Arena::rows(int64_t offset, int64_t rows, int64_t channels, const std::string& dtype) const {
  DType type = named_dtype(dtype);
  int64_t size = dtype_size(type);
  if (offset < 0 || rows < 0 || channels < 0 || offset % size != 0)
    throw nb::value_error("Arena.rows: offset, rows and channels must not be negative, and the "
                          "offset a multiple of the item size");
  if (offset + rows * channels * size > bytes)
    throw nb::value_error(("Arena.rows: needs " + std::to_string(offset + rows * channels * size) +
                           " bytes of " + std::to_string(bytes))
                              .c_str());
  return {{data + offset, rows, channels, std::max<int64_t>(channels, 1), type}, memory};
}

TorchTensor Rows::tensor() const {
  return share(m.data, m.rows, m.channels, m.ld, 2, dlpack_dtype(m.dtype), memory);
}

TorchTensor Index::tensor() const {
  return share(table.data, table.count, table.taps, table.taps, size_t(dims), nb::dtype<int32_t>(),
               memory);
}

Packed::Packed(const PackedWeights& shape, const char* data, std::shared_ptr<void> memory)
    : weights(shape), memory(std::move(memory)) {
  weights.data = data;
}

TorchTensor Packed::tensor() const {
  return share(weights.data, packed_bytes(weights), 1, 1, 1, nb::dtype<uint8_t>(), memory);
}

Index::Index(nb::handle tensor) {
  View t = view_of(tensor, "Index");
  if (t.dtype != nb::dtype<int32_t>()) throw nb::type_error("Index: dtype must be int32");
  if (t.dims != 1 && t.dims != 2)
    throw nb::value_error("Index: expected the shape [M] or [M, taps]");
  dims = int(t.dims);
  int64_t count = t.shape[0], taps = dims == 2 ? t.shape[1] : 1;
  bool dense = count == 0 || taps == 0 ||
               ((taps <= 1 || dims == 1 || t.strides[1] == 1) &&
                (count <= 1 || t.strides[0] == (dims == 2 ? taps : 1)));
  if (!dense) throw nb::value_error("Index: the tensor must be contiguous");
  const int32_t* data = static_cast<const int32_t*>(t.data);
  static const int32_t nothing = 0;
  bool any = count > 0 && taps > 0;
  table = {any ? data : &nothing, count, taps};
  min = 0;
  max = -1;
  if (any) min = max = data[0];
  for (int64_t i = 0; i < count * taps; ++i) {
    min = std::min(min, data[i]);
    max = std::max(max, data[i]);
  }
  if (min < -1) throw nb::value_error("Index: entries must be rows, or -1 for a row of zeros");
  memory = std::move(t.memory);
}

Program::Program(nb::handle instructions) : instructions(nb::tuple(instructions)) {
  std::vector<Instruction> list;
  for (nb::handle item : this->instructions) {
    nb::object entry = nb::borrow(item);
    if (nb::len(entry) != 4) throw nb::value_error("Program: an instruction is (op, a, b, imm)");
    Instruction in;
    double imm;
    if (!nb::try_cast(nb::object(entry[0]), in.op) || !nb::try_cast(nb::object(entry[1]), in.a) ||
        !nb::try_cast(nb::object(entry[2]), in.b) || !nb::try_cast(nb::object(entry[3]), imm))
      throw nb::type_error("Program: an instruction is (op: str, a: int, b: int, imm: float)");
    in.imm = float(imm);
    list.push_back(in);
  }
  compiled = compile_program(list);
}

} // namespace retouch
