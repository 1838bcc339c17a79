// Arrays out of bytes: of an exported file, or of a step's own file beside a trace (safetensors,
// minivllm/trace/artifacts.py). Little-endian, the last axis fastest; {dtype, shape, as, from} says where
// one lies. Pure.

const halves = new Float32Array(2 ** 16); // float16 as 16 bits → the number; filled when first asked for

function half(bits) {
  if (!halves[0x3c00]) halves.forEach((_, i) => (halves[i] = halfOf(i)));
  return halves[bits];
}

function halfOf(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits >> 15 ? -size : size;
}

const scratch = new DataView(new ArrayBuffer(4));

function upperHalf(bits) {
  scratch.setUint16(0, bits);
  return scratch.getFloat32(0);
}

const READ = {
  f4: [4, (view, at) => view.getFloat32(at, true)],
  f2: [2, (view, at) => half(view.getUint16(at, true))],
  b2: [2, (view, at) => upperHalf(view.getUint16(at, true))], // bfloat16: the upper half of a float32
  i4: [4, (view, at) => view.getInt32(at, true)],
  i8: [8, (view, at) => Number(view.getBigInt64(at, true))],
};

const FORMS = { F32: "f4", F16: "f2", BF16: "b2", I32: "i4", I64: "i8" };

// {shape, flat}: an array, or what is left of it when `at` fixes its first axes.
export function partOf(buffer, { shape, as, from }, name, at = []) {
  let [offset, count] = [0, shape.reduce((product, size) => product * size, 1)];
  if (at.length > shape.length) throw new Error(`${name} has ${shape.length} axes; got ${at.length} indices.`);
  at.forEach((index, axis) => {
    const size = shape[axis];
    if (!Number.isInteger(index) || index < -size || index >= size) throw new Error(`${name}, axis ${axis}: got ${index}; allowed: 0 to ${size - 1}.`);
    count /= size;
    offset += ((index + size) % size) * count;
  });
  const [bytes, get] = READ[as];
  const view = new DataView(buffer, from + offset * bytes, count * bytes);
  const flat = new Array(count);
  for (let i = 0; i < count; i += 1) flat[i] = get(view, i * bytes);
  return { shape: shape.slice(at.length), flat };
}

// {name, dtype, shape, values}, as the server answers: in lists by its shape; what is no number to
// JSON is null there, and so it is here.
export function widen(buffer, place, name, at = []) {
  const { shape, flat } = partOf(buffer, place, name, at);
  return { name, dtype: place.dtype, shape, values: nest(flat.map((value) => (Number.isFinite(value) ? value : null)), shape) };
}

function nest(flat, shape) {
  let rows = flat;
  for (const size of shape.slice(1).reverse()) {
    rows = Array.from({ length: size ? rows.length / size : 0 }, (_, i) => rows.slice(i * size, (i + 1) * size));
  }
  return shape.length ? rows : rows[0];
}

// The arrays of one captured step, wherever they lie: `told` is the data of its exec.tensors, and
// `placeOf(name)` answers {dtype, shape, as, from} in the buffer, or throws.
export class StepArrays {
  constructor(buffer, told, placeOf) {
    Object.assign(this, { buffer, told, placeOf });
  }

  shape(name) {
    return this.placeOf(name).shape;
  }

  part(name, at) {
    return partOf(this.buffer, this.placeOf(name), name, at).flat;
  }

  widened(name, at) {
    return widen(this.buffer, this.placeOf(name), name, at);
  }

  // How many K/V heads the query heads share; null where K was not kept.
  get kvHeads() {
    return this.told.arrays.find(({ name }) => name === "k")?.shape[2] ?? null;
  }
}

// --- a step's own file -------------------------------------------------------------------------------

// Name → where it lies, of the arrays that the event exec.tensors tells of. Throws where the file is
// not the one that the event means.
export function placesIn(buffer, told) {
  if (buffer.byteLength < told.bytes) throw new Error(`${told.file} is cut: ${buffer.byteLength} bytes, ${told.bytes} were written.`);
  const bytes = new Uint8Array(buffer);
  if (buffer.byteLength > told.bytes || crc32(bytes) !== told.crc32) {
    throw new Error(`${told.file} is not the file that this trace tells of (its checksum is another one): it was altered, or belongs to another run.`);
  }
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  return Object.fromEntries(told.arrays.map(({ name, dtype, shape }) => [name, { dtype, shape, as: FORMS[dtype], from: 8 + length + header[name].data_offsets[0] }]));
}

const table = Uint32Array.from({ length: 256 }, (_, i) => {
  let value = i;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(bytes) {
  let value = ~0;
  for (let i = 0; i < bytes.length; i += 1) value = table[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}
