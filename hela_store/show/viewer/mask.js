// A mask is a crop of its frame: {x, y, w, h, bits}, bits row by row, 1 in the cell. Lengths are px of the frame.
// On the wire a mask is COCO's compressed run-length code of the whole frame, as the store keeps it.

export function empty() {
  return { x: 0, y: 0, w: 0, h: 0, bits: new Uint8Array(0) };
}

// Read COCO's counts: 5 bits a character, least first; from the fourth run on they are differences.
function runs(counts) {
  const found = [];
  for (let i = 0; i < counts.length; ) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const bits = counts.charCodeAt(i++) - 48;
      value |= (bits & 0x1f) << shift;
      shift += 5;
      more = (bits & 0x20) !== 0;
      if (!more && bits & 0x10) value |= -1 << shift;
    }
    if (found.length > 2) value += found[found.length - 2];
    found.push(value);
  }
  return found;
}

export function decode(counts, height) {
  const parts = [];
  let at = 0, x0 = Infinity, x1 = -1, y0 = Infinity, y1 = -1;
  runs(counts).forEach((length, i) => {
    for (let from = at, left = i % 2 ? length : 0; left > 0; ) {
      const x = Math.floor(from / height), y = from - x * height, here = Math.min(left, height - y);
      parts.push([x, y, here]);
      x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y + here - 1);
      from += here; left -= here;
    }
    at += length;
  });
  if (!parts.length) return empty();
  const w = x1 - x0 + 1, h = y1 - y0 + 1, bits = new Uint8Array(w * h);
  for (const [x, y, length] of parts) for (let k = 0; k < length; k++) bits[(y - y0 + k) * w + x - x0] = 1;
  return { x: x0, y: y0, w, h, bits };
}

export function encode(mask, height, width) {
  const edges = [];
  // a run that ends at the foot of a column and goes on at the head of the next is one run
  const turn = (place) => (edges.at(-1) === place ? edges.pop() : edges.push(place));
  for (let x = 0; x < mask.w; x++) {
    const head = (mask.x + x) * height + mask.y;
    let inside = 0;
    for (let y = 0; y < mask.h; y++) {
      const bit = mask.bits[y * mask.w + x];
      if (bit !== inside) turn(head + y);
      inside = bit;
    }
    if (inside) turn(head + mask.h);
  }
  if (edges.at(-1) !== height * width) edges.push(height * width);
  const lengths = edges.map((place, i) => place - (i ? edges[i - 1] : 0));
  let out = "";
  lengths.forEach((length, i) => {
    let value = i > 2 ? length - lengths[i - 2] : length;
    for (let more = true; more; ) {
      let bits = value & 0x1f;
      value >>= 5;
      more = bits & 0x10 ? value !== -1 : value !== 0;
      if (more) bits |= 0x20;
      out += String.fromCharCode(bits + 48);
    }
  });
  return out;
}

export function holds(mask, x, y) {
  const column = Math.floor(x) - mask.x, row = Math.floor(y) - mask.y;
  return column >= 0 && row >= 0 && column < mask.w && row < mask.h && mask.bits[row * mask.w + column] === 1;
}

// Outline along the edges of pixels: exact at any zoom, and quick for thousands of cells.
export function outline(mask) {
  const { x, y, w, h, bits } = mask, path = new Path2D();
  const at = (column, row) => (column >= 0 && row >= 0 && column < w && row < h ? bits[row * w + column] : 0);
  const edges = (lines, length, differs, draw) => {
    for (let line = 0; line <= lines; line++) {
      for (let k = 0; k < length; k++) {
        if (!differs(line, k)) continue;
        const start = k;
        while (k + 1 < length && differs(line, k + 1)) k++;
        draw(line, start, k + 1);
      }
    }
  };
  edges(h, w, (row, k) => at(k, row - 1) !== at(k, row), (row, from, to) => {
    path.moveTo(x + from, y + row); path.lineTo(x + to, y + row);
  });
  edges(w, h, (column, k) => at(column - 1, k) !== at(column, k), (column, from, to) => {
    path.moveTo(x + column, y + from); path.lineTo(x + column, y + to);
  });
  return path;
}

// Return the mask with a disc painted in or taken out; what lies beyond the frame is dropped.
export function painted(mask, cx, cy, radius, value, frame) {
  const x0 = Math.max(0, Math.floor(cx - radius)), x1 = Math.min(frame.width, Math.ceil(cx + radius) + 1);
  const y0 = Math.max(0, Math.floor(cy - radius)), y1 = Math.min(frame.height, Math.ceil(cy + radius) + 1);
  let out = mask;
  if (value && x1 > x0 && y1 > y0) out = widened(mask, x0, y0, x1, y1);
  const bits = out === mask ? mask.bits.slice() : out.bits;
  for (let y = Math.max(y0, out.y); y < Math.min(y1, out.y + out.h); y++) {
    for (let x = Math.max(x0, out.x); x < Math.min(x1, out.x + out.w); x++) {
      if ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= radius * radius) bits[(y - out.y) * out.w + x - out.x] = value;
    }
  }
  return { ...out, bits };
}

function widened(mask, x0, y0, x1, y1) {
  if (mask.w) {
    x0 = Math.min(x0, mask.x); y0 = Math.min(y0, mask.y);
    x1 = Math.max(x1, mask.x + mask.w); y1 = Math.max(y1, mask.y + mask.h);
  }
  const w = x1 - x0, bits = new Uint8Array(w * (y1 - y0));
  for (let y = 0; y < mask.h; y++) {
    bits.set(mask.bits.subarray(y * mask.w, (y + 1) * mask.w), (mask.y - y0 + y) * w + mask.x - x0);
  }
  return { x: x0, y: y0, w, h: y1 - y0, bits };
}

export function area(mask) {
  let total = 0;
  for (const bit of mask.bits) total += bit;
  return total;
}
