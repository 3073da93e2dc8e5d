// Pixels and density maps: pure functions that agree with the Python code. They need no browser.

export const STRIDE = 8; // pixels of a density cell's side, as all networks here have
export const MOST_PIXELS = 3840 * 2160; // of the largest picture that is counted at its own size
export const GLANCE_PIXELS = 160 * 240; // of the small copy that is judged, not counted
export const SQUARE = 64; // pixels of the side of the square that is looked for
const FLAT = 4; // grey levels of deviation, see utils/pixels.py
const EDGE = 1e-3; // of a pixel: OpenCV leaves out narrower parts

/** Rounds halves to the even neighbour, as Python and OpenCV do. */
function round(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** Returns [height, width] scaled so that the longer side is at most `maxSide`. */
export function withinSide([height, width], maxSide) {
  return scaled([height, width], maxSide / Math.max(height, width));
}

/** Returns [height, width] scaled to at most about so many pixels. */
export function withinPixels([height, width], pixels) {
  return scaled([height, width], Math.sqrt(pixels / (height * width)));
}

function scaled(size, scale) {
  return scale < 1 ? size.map((side) => Math.max(1, round(scale * side))) : size;
}

/** Returns RGBA pixels (4 bytes each) as RGB, leaving alpha out. */
export function dropAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

/**
 * Shrinks RGB pixels by area, as cv2.resize does with INTER_AREA.
 *
 * @param {Uint8Array} rgb of `size` [height, width]
 * @param {number[]} to [height, width], neither greater than in `size`
 */
export function shrink(rgb, size, to) {
  if (size[0] === to[0] && size[1] === to[1]) return rgb;
  const ratios = size.map((side, axis) => side / to[axis]);
  return ratios.every(Number.isInteger)
    ? shrinkWhole(rgb, size[1], to, ratios)
    : shrinkParts(rgb, size, to);
}

function shrinkWhole(rgb, width, [rows, columns], [high, wide]) {
  const out = new Uint8Array(rows * columns * 3);
  const share = Math.fround(1 / (high * wide));
  const quarters = high === 2 && wide === 2; // OpenCV rounds the halves of these up
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < 3; channel++, at++) {
        let sum = 0;
        for (let y = row * high; y < (row + 1) * high; y++) {
          const start = (y * width + column * wide) * 3 + channel;
          for (let x = 0; x < wide; x++) sum += rgb[start + 3 * x];
        }
        out[at] = quarters ? (sum + 2) >> 2 : round(Math.fround(sum * share));
      }
    }
  }
  return out;
}

function shrinkParts(rgb, [height, width], [rows, columns]) {
  const down = overlaps(height, rows);
  const across = overlaps(width, columns);
  const out = new Uint8Array(rows * columns * 3);
  const line = new Float32Array(columns * 3); // float32 as in OpenCV, so that rounding agrees
  const sums = new Float32Array(columns * 3);
  for (let part = 0; part < down.to.length; part++) {
    const start = down.from[part] * width * 3;
    line.fill(0);
    for (let i = 0; i < across.to.length; i++) {
      const from = start + across.from[i] * 3;
      const to = across.to[i] * 3;
      const share = across.share[i];
      line[to] += Math.fround(rgb[from] * share);
      line[to + 1] += Math.fround(rgb[from + 1] * share);
      line[to + 2] += Math.fround(rgb[from + 2] * share);
    }
    const share = down.share[part];
    for (let i = 0; i < line.length; i++) sums[i] += Math.fround(line[i] * share);
    if (down.to[part + 1] !== down.to[part]) {
      const at = down.to[part] * columns * 3;
      for (let i = 0; i < sums.length; i++) out[at + i] = Math.min(255, round(sums[i]));
      sums.fill(0);
    }
  }
  return out;
}

/** Returns which pixel contributes which share to which shrunk pixel. */
function overlaps(side, shrunk) {
  const scale = 1 / (shrunk / side);
  const [from, to, share] = [[], [], []];
  const add = (source, target, part) => {
    from.push(source);
    to.push(target);
    share.push(part);
  };
  for (let target = 0; target < shrunk; target++) {
    const [start, end] = [target * scale, target * scale + scale];
    const length = Math.min(scale, side - start);
    const last = Math.min(Math.floor(end), side - 1);
    const first = Math.min(Math.ceil(start), last);
    if (first - start > EDGE) add(first - 1, target, (first - start) / length);
    for (let source = first; source < last; source++) add(source, target, 1 / length);
    if (end - last > EDGE) add(last, target, Math.min(end - last, 1, length) / length);
  }
  return { from: Int32Array.from(from), to: Int32Array.from(to), share: Float32Array.from(share) };
}

/** Returns whether all channels of RGB pixels deviate by less than FLAT. */
export function isFlat(rgb) {
  const pixels = rgb.length / 3;
  return [0, 1, 2].every((channel) => {
    let sum = 0;
    for (let i = channel; i < rgb.length; i += 3) sum += rgb[i];
    const mean = sum / pixels;
    let squares = 0;
    for (let i = channel; i < rgb.length; i += 3) squares += (rgb[i] - mean) ** 2;
    return Math.sqrt(squares / pixels) < FLAT;
  });
}

/** Returns the sum of a density map, at least 0. */
export function total(density) {
  let sum = 0;
  for (const cell of density) sum += cell;
  return sum < 0 ? 0 : sum; // NaN stays
}

/**
 * Returns the count in a polygon, at least 0, or null if it encloses no pixel.
 *
 * @param {Float32Array} density heads per cell
 * @param {object} weighed what regionWeights returns for the picture's size and the polygon
 */
export function countRegion(density, { weights, inside }) {
  if (!inside) return null;
  let sum = 0;
  for (let i = 0; i < density.length; i++) sum += Math.fround(density[i] * weights[i]);
  return Math.max(0, sum);
}

/** Returns the part of every cell's pixels whose centres a polygon encloses (even-odd rule). */
export function regionWeights([height, width], corners) {
  const columns = Math.ceil(width / STRIDE);
  const weights = new Float32Array(Math.ceil(height / STRIDE) * columns);
  const points = corners.map(([x, y]) => [x * width, y * height]);
  const edges = points.map((point, i) =>
    [point, points[(i + 1) % points.length]].sort((a, b) => a[1] - b[1] || a[0] - b[0]),
  );
  let inside = 0;
  for (let row = 0; row < height; row++) {
    const crossed = [];
    for (const [[x1, y1], [x2, y2]] of edges) {
      if (row < Math.ceil(y1 - 0.5) || row >= Math.ceil(y2 - 0.5)) continue;
      const x = x1 + (row + 0.5 - y1) * ((x2 - x1) / (y2 - y1 || 1));
      crossed.push(Math.min(Math.max(Math.ceil(x - 0.5), 0), width));
    }
    crossed.sort((a, b) => a - b);
    const start = Math.floor(row / STRIDE) * columns;
    for (let i = 0; i + 1 < crossed.length; i += 2) {
      inside += crossed[i + 1] - crossed[i];
      for (let x = crossed[i]; x < crossed[i + 1]; ) {
        const cell = Math.floor(x / STRIDE);
        const end = Math.min(crossed[i + 1], (cell + 1) * STRIDE);
        weights[start + cell] += end - x;
        x = end;
      }
    }
  }
  for (let i = 0; i < weights.length; i++) {
    const high = Math.min(STRIDE, height - Math.floor(i / columns) * STRIDE);
    weights[i] /= high * Math.min(STRIDE, width - (i % columns) * STRIDE);
  }
  return { weights, inside };
}

/**
 * Returns the square of SQUARE pixels with the most people, in pixels of the counted picture.
 *
 * @param {number[]} size [height, width] of the picture that was counted
 */
export function densestSquare(density, [height, width]) {
  const [rows, columns] = [Math.ceil(height / STRIDE), Math.ceil(width / STRIDE)];
  const [high, wide] = [rows, columns].map((cells) => Math.min(cells, SQUARE / STRIDE));
  const sums = new Float64Array((rows + 1) * (columns + 1)); // of all cells above and to the left
  const at = (row, column) => row * (columns + 1) + column;
  for (let row = 0; row < rows; row++) {
    for (let column = 0, line = 0; column < columns; column++) {
      line += density[row * columns + column];
      sums[at(row + 1, column + 1)] = sums[at(row, column + 1)] + line;
    }
  }
  let best = { count: -Infinity };
  for (let row = 0; row + high <= rows; row++) {
    for (let column = 0; column + wide <= columns; column++) {
      const count =
        sums[at(row + high, column + wide)] -
        sums[at(row, column + wide)] -
        sums[at(row + high, column)] +
        sums[at(row, column)];
      if (count > best.count) best = { count, x: column * STRIDE, y: row * STRIDE };
    }
  }
  best.width = Math.min(wide * STRIDE, width - best.x);
  best.height = Math.min(high * STRIDE, height - best.y);
  return best;
}
