/**
 * Coverage of pixels by strokes and shapes, 0 to 255 in tiles of one channel. Where strokes of one step overlap the
 * larger coverage counts, so that a stroke that crosses itself does not get darker.
 * @import {Point, Rect, Sample} from './types.js'
 * @import {Tiles} from './tiles.js'
 */
import { around, intersect } from './rects.js';
import { TILE } from './tiles.js';

/** Pixels that a straight piece may be off its curve. */
const FLAT = 0.1;

/**
 * Covers the pixels near a segment whose radius goes from `a.r` to `b.r`. `hardness` 1: a sharp edge, smoothed over
 * one pixel; 0: falls from the middle on. Pixels whose centre is nearer than the radius are within.
 * @param {Tiles} cover @param {{x: number, y: number, r: number}} a @param {{x: number, y: number, r: number}} b
 * @param {number} hardness @param {number} most the coverage in the middle, from 0 to 1
 * @returns {Rect | null} what may have changed
 */
export function segment(cover, a, b, hardness, most = 1) {
  const reach = Math.max(a.r, b.r) + 1;
  const [dx, dy, dr] = [b.x - a.x, b.y - a.y, b.r - a.r];
  const along = dx * dx + dy * dy;
  const rect = intersect(around([a, b], reach), cover.whole);
  cover.each(rect, (part, number, x0, y0) => {
    if (apart(x0 + TILE / 2 - a.x, y0 + TILE / 2 - a.y, dx, dy, along) > reach + TILE * Math.SQRT1_2) return;
    const tile = cover.writable(number);
    for (let y = part[1]; y < part[1] + part[3]; y++) {
      let i = (y - y0) * TILE + part[0] - x0;
      const py = y + 0.5 - a.y;
      for (let x = part[0]; x < part[0] + part[2]; x++, i++) {
        if (tile[i] === 255) continue;
        const px = x + 0.5 - a.x;
        let t = along > 0 ? (px * dx + py * dy) / along : 0;
        t = t < 0 ? 0 : t > 1 ? 1 : t;
        const qx = px - t * dx;
        const qy = py - t * dy;
        const square = qx * qx + qy * qy;
        if (square >= reach * reach) continue;
        const value = Math.round(most * profile(Math.sqrt(square), a.r + t * dr, hardness));
        if (value > tile[i]) tile[i] = value;
      }
    }
  });
  return rect;
}

/** How far a place is from a segment that begins at the origin. @param {number} x @param {number} y @param {number} dx @param {number} dy @param {number} along its squared length */
function apart(x, y, dx, dy, along) {
  const t = along > 0 ? Math.min(Math.max((x * dx + y * dy) / along, 0), 1) : 0;
  return Math.hypot(x - t * dx, y - t * dy);
}

/** Coverage at a distance from the middle of a stroke. @param {number} distance @param {number} radius @param {number} hardness */
function profile(distance, radius, hardness) {
  const outer = radius + 0.5;
  const inner = Math.max(Math.min(hardness * radius, radius - 0.5), 0);
  if (distance <= inner) return 255;
  if (distance >= outer) return 0;
  const t = (outer - distance) / (outer - inner);
  return 255 * (hardness < 1 ? t * t * (3 - 2 * t) : t);
}

/**
 * Covers the inside of a polygon (even-odd rule); rows are sampled four times, columns exactly.
 * @param {Tiles} cover @param {Point[]} points @returns {Rect | null} what may have changed
 */
export function polygon(cover, points) {
  const rect = intersect(around(points), cover.whole);
  if (!rect) return null;
  const [left, top, width, height] = rect;
  const sums = new Float32Array(width);
  for (let y = top; y < top + height; y++) {
    sums.fill(0);
    for (const sample of [0.125, 0.375, 0.625, 0.875]) spans(points, y + sample, left, sums);
    cover.each([left, y, width, 1], (part, number, x0, y0) => {
      const tile = cover.writable(number);
      for (let x = part[0]; x < part[0] + part[2]; x++) {
        const i = (y - y0) * TILE + x - x0;
        tile[i] = Math.max(tile[i], Math.round(Math.min(sums[x - left] / 4, 1) * 255));
      }
    });
  }
  return rect;
}

/** Adds to `sums` how much of each pixel of the row at `y` is inside. @param {Point[]} points @param {number} y @param {number} left @param {Float32Array} sums */
function spans(points, y, left, sums) {
  /** @type {number[]} */
  const crossings = [];
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [a, b] = [points[j], points[i]];
    if (a.y <= y !== b.y <= y) crossings.push(a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x) - left);
  }
  crossings.sort((a, b) => a - b);
  for (let k = 0; k + 1 < crossings.length; k += 2) {
    const from = Math.max(crossings[k], 0);
    const to = Math.min(crossings[k + 1], sums.length);
    for (let x = Math.floor(from); x < to; x++) sums[x] += Math.min(x + 1, to) - Math.max(x, from);
  }
}

/** Corners of a rectangle between two points. @param {Point} a @param {Point} b @returns {Point[]} */
export const rectangle = (a, b) => [a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }];

/** An ellipse between two points as a polygon, within a tenth of a pixel. @param {Point} a @param {Point} b @returns {Point[]} */
export function ellipse(a, b) {
  const [cx, cy] = [(a.x + b.x) / 2, (a.y + b.y) / 2];
  const [rx, ry] = [Math.abs(b.x - a.x) / 2, Math.abs(b.y - a.y) / 2];
  const count = Math.max(16, Math.ceil(Math.PI / Math.acos(1 - 0.1 / Math.max(rx, ry, 0.2))));
  return Array.from({ length: count }, (_, i) => {
    const angle = (2 * Math.PI * i) / count;
    return { x: cx + rx * Math.cos(angle), y: cy + ry * Math.sin(angle) };
  });
}

/** The closed outline of a polygon as a stroke. @param {Tiles} cover @param {Point[]} points @param {number} radius @returns {Rect | null} */
export function outline(cover, points, radius) {
  points.forEach((point, i) => segment(cover, { ...point, r: radius }, { ...points[(i + 1) % points.length], r: radius }, 1));
  return intersect(around(points, radius + 1), cover.whole);
}

/**
 * Covers the connected pixels whose colour is that of the seed, within `tolerance` levels in every channel.
 * @param {Tiles} cover @param {Uint8Array | Uint8ClampedArray} rgb `[height, width, 3]` @param {Point} seed @param {number} tolerance
 * @returns {Rect | null} what has changed
 */
export function flood(cover, rgb, seed, tolerance) {
  const { width, height } = cover;
  const start = Math.floor(seed.y) * width + Math.floor(seed.x);
  const [r, g, b] = rgb.subarray(start * 3, start * 3 + 3);
  const seen = new Uint8Array(width * height);
  const fits = (/** @type {number} */ i) =>
    !seen[i] &&
    Math.abs(rgb[3 * i] - r) <= tolerance &&
    Math.abs(rgb[3 * i + 1] - g) <= tolerance &&
    Math.abs(rgb[3 * i + 2] - b) <= tolerance;
  const stack = [start];
  while (stack.length) {
    const at = /** @type {number} */ (stack.pop());
    if (!fits(at)) continue;
    const row = at - (at % width);
    let [from, to] = [at, at];
    while (from > row && fits(from - 1)) from--;
    while (to < row + width - 1 && fits(to + 1)) to++;
    seen.fill(1, from, to + 1);
    for (const other of [row - width, row + width]) {
      if (other < 0 || other >= width * height) continue;
      for (let i = from - row; i <= to - row; i++) {
        const open = fits(other + i);
        if (open && (i === from - row || !fits(other + i - 1))) stack.push(other + i);
      }
    }
  }
  return stamp(cover, seen);
}

/** Covers where `mask`, of the whole layer, is not 0. @param {Tiles} cover @param {Uint8Array} mask @returns {Rect | null} */
function stamp(cover, mask) {
  const { width, height } = cover;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = y;
    }
  }
  if (right < 0) return null;
  /** @type {Rect} */
  const rect = [left, top, right - left + 1, bottom - top + 1];
  cover.each(rect, (part, number, x0, y0) => {
    const tile = cover.writable(number);
    for (let y = part[1]; y < part[1] + part[3]; y++) {
      for (let x = part[0]; x < part[0] + part[2]; x++) {
        if (mask[y * width + x]) tile[(y - y0) * TILE + x - x0] = 255;
      }
    }
  });
  return rect;
}

/**
 * A path through the pen's places: places are pulled towards the last one by `smoothing` (0 to 1), and joined by
 * quadratic curves through the middles between them.
 */
export class Path {
  /** @type {Sample[]} */ #places = [];
  /** @param {number} smoothing */
  constructor(smoothing) {
    this.pull = 1 - 0.92 * smoothing;
  }

  /** The new pieces of the path, straight enough. @param {Sample} pen @returns {Sample[]} */
  add(pen) {
    const last = this.#places.at(-1);
    this.#places.push(last ? mix(last, pen, this.pull) : pen);
    const [a, b, c] = this.#places.slice(-3);
    if (!last) return [pen];
    if (!c) return straight(a, mix(a, b, 0.5));
    return curve(mix(a, b, 0.5), b, mix(b, c, 0.5));
  }

  /** The last piece, up to where the pen was lifted. @param {Sample} pen @returns {Sample[]} */
  end(pen) {
    const [a, b] = this.#places.slice(-2);
    if (!b) return [];
    return [...straight(mix(a, b, 0.5), b), ...straight(b, pen)];
  }
}

/** @param {Sample} a @param {Sample} b @param {number} t @returns {Sample} */
export const mix = (a, b, t) => ({
  x: a.x + (b.x - a.x) * t,
  y: a.y + (b.y - a.y) * t,
  pressure: a.pressure + (b.pressure - a.pressure) * t,
});

/** @param {Sample} a @param {Sample} b @returns {Sample[]} */
function straight(a, b) {
  return curve(a, mix(a, b, 0.5), b);
}

/** @param {Sample} a @param {Sample} b @param {Sample} c @returns {Sample[]} */
function curve(a, b, c) {
  const bend = Math.hypot(a.x - 2 * b.x + c.x, a.y - 2 * b.y + c.y);
  const count = Math.max(1, Math.ceil(Math.sqrt(bend / (4 * FLAT))));
  return Array.from({ length: count }, (_, i) => {
    const t = (i + 1) / count;
    return mix(mix(a, b, t), mix(b, c, t), t);
  });
}
