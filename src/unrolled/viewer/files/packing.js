// Reads what packing.py packed: see there for the layout. An array becomes a typed array over the same bytes, in C order,
// with its shape in `.shape`.
"use strict";

function unpack(buffer) {
  const types = {
    float32: Float32Array,
    float64: Float64Array,
    uint8: Uint8Array,
    uint16: Uint16Array,
    int32: Int32Array,
  };
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] !== 1) {
    throw new Error("this machine is big-endian; the viewer's arrays are little-endian");
  }

  const end = 4 + new DataView(buffer).getUint32(0, true);
  const data = end + ((8 - (end % 8)) % 8);

  function restored(value) {
    if (Array.isArray(value)) {
      // In place: a list may hold a hundred thousand labels.
      for (let i = 0; i < value.length; i++) {
        if (typeof value[i] === "object") value[i] = restored(value[i]);
      }
      return value;
    }
    if (value === null || typeof value !== "object") return value;
    if (Object.hasOwn(value, "$array")) return array(...value.$array);
    if (Object.hasOwn(value, "$number")) return { nan: NaN, inf: Infinity, "-inf": -Infinity }[value.$number];
    // fromEntries makes a key "__proto__" a key like any other; an assignment would not.
    return Object.fromEntries(
      Object.entries(value).map(([key, one]) => [key.startsWith("$") ? key.slice(1) : key, restored(one)]),
    );
  }

  function array(name, shape, offset) {
    const size = shape.reduce((product, length) => product * length, 1);
    const values = size === 0 ? new types[name](0) : new types[name](buffer, data + offset, size);
    values.shape = shape;
    return values;
  }

  return restored(JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, end - 4))));
}

if (typeof module === "object") module.exports = { unpack };
