// Arrays out of the bytes of an exported file: little-endian, the last axis fastest.

const TYPES = { f4: [4, "getFloat32"], i4: [4, "getInt32"], i8: [8, "getBigInt64"] };

// {name, dtype, shape, values}, as the server answers; `at` fixes the first axes. What is no number
// to JSON is null there, and so it is here.
export function widen(buffer, { dtype, shape, as, from }, name, at = []) {
  let [offset, count] = [0, shape.reduce((product, size) => product * size, 1)];
  if (at.length > shape.length) throw new Error(`${name} has ${shape.length} axes; got ${at.length} indices.`);
  at.forEach((index, axis) => {
    const size = shape[axis];
    if (!Number.isInteger(index) || index < -size || index >= size) throw new Error(`${name}, axis ${axis}: got ${index}; allowed: 0 to ${size - 1}.`);
    count /= size;
    offset += ((index + size) % size) * count;
  });
  const [bytes, get] = TYPES[as];
  const view = new DataView(buffer, from + offset * bytes, count * bytes);
  const flat = Array.from({ length: count }, (_, i) => Number(view[get](i * bytes, true)));
  return { name, dtype, shape: shape.slice(at.length), values: nest(flat.map((value) => (Number.isFinite(value) ? value : null)), shape.slice(at.length)) };
}

function nest(flat, shape) {
  let rows = flat;
  for (const size of shape.slice(1).reverse()) {
    rows = Array.from({ length: size ? rows.length / size : 0 }, (_, i) => rows.slice(i * size, (i + 1) * size));
  }
  return shape.length ? rows : rows[0];
}
