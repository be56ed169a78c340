/** Three pictures to begin with, computed here: simple shapes that paint shows on. @import {RGB} from './types.js' */
import { toRGB } from './colour.js';
import { Picture } from './picture.js';

/** @typedef {(x: number, y: number) => RGB} Shader A colour for a place of the unit square. */

/** @param {RGB} a @param {RGB} b @param {number} t @returns {RGB} */
const mix = (a, b, t) => /** @type {RGB} */ (a.map((c, i) => c + (b[i] - c) * t));

/** From 0 to 1 around `edge`. @param {number} edge @param {number} value @param {number} soft */
const step = (edge, value, soft = 0.004) => Math.min(Math.max((value - edge) / soft + 0.5, 0), 1);

/** Lays a ball with light from the upper left over a colour. @param {RGB} under @param {number} x @param {number} y @param {[number, number, number]} ball @param {RGB} colour @returns {RGB} */
function ball(under, x, y, [cx, cy, r], colour) {
  const distance = Math.hypot(x - cx, y - cy) / r;
  const light = Math.hypot(x - cx + 0.35 * r, y - cy + 0.4 * r) / r;
  const shade = mix(mix(colour, [255, 255, 255], 0.55), mix(colour, [20, 12, 30], 0.6), Math.min(light / 1.5, 1));
  return mix(shade, under, step(1, distance, 0.006 / r));
}

/** @type {Shader} */
function hills(x, y) {
  let colour = mix([112, 178, 232], [247, 226, 190], y * 1.5);
  colour = mix([255, 244, 214], colour, step(0.09, Math.hypot(x - 0.72, y - 0.26)));
  const rows = /** @type {[number, number, number, RGB][]} */ ([
    [0.5, 0.07, 5, [122, 152, 166]],
    [0.6, 0.06, 7, [96, 138, 108]],
    [0.74, 0.05, 4, [70, 116, 66]],
  ]);
  for (const [level, height, waves, ground] of rows) {
    const edge = level + height * Math.sin(waves * x + 9 * level) + (height / 3) * Math.sin(2.7 * waves * x + level);
    colour = mix(colour, mix(ground, [24, 40, 30], Math.max(y - edge, 0) * 1.2), step(edge, y));
  }
  return colour;
}

/** @type {Shader} */
function fruit(x, y) {
  const wall = mix([206, 196, 180], [150, 138, 122], Math.hypot(x - 0.3, y - 0.2));
  const table = mix([146, 96, 62], [84, 52, 34], (y - 0.66) * 2.2 + 0.04 * Math.sin(60 * y + 3 * Math.sin(5 * x)));
  let colour = mix(wall, table, step(0.66, y));
  for (const cx of [0.33, 0.55, 0.72]) colour = mix(mix(colour, [30, 18, 12], 0.5), colour, step(1, Math.hypot((x - cx - 0.04) / 0.15, (y - 0.79) / 0.035), 0.5));
  colour = ball(colour, x, y, [0.72, 0.7, 0.1], [226, 168, 44]);
  colour = ball(colour, x, y, [0.55, 0.66, 0.13], [196, 52, 42]);
  return ball(colour, x, y, [0.33, 0.67, 0.12], [122, 168, 62]);
}

/** @type {Shader} */
function night(x, y) {
  let colour = mix([14, 18, 44], [66, 74, 124], Math.min(y / 0.6, 1));
  const [column, row] = [Math.floor(x * 34), Math.floor(y * 34)];
  const chance = Math.abs(Math.sin(column * 127.1 + row * 311.7) * 43758.5453) % 1;
  const star = Math.hypot(x * 34 - column - 0.5, y * 34 - row - 0.5);
  if (chance > 0.93 && y < 0.55) colour = mix([236, 236, 250], colour, step(0.16, star, 0.2));
  colour = mix([242, 238, 220], colour, step(0.075, Math.hypot(x - 0.3, y - 0.22)));
  if (y > 0.6) {
    const glow = Math.exp(-(((x - 0.3) / (0.03 + 0.16 * (y - 0.6))) ** 2)) * (0.6 + 0.4 * Math.sin(160 * y + 6 * Math.sin(9 * y)));
    colour = mix(mix([30, 38, 76], [10, 12, 30], (y - 0.6) * 2.4), [226, 220, 200], 0.8 * Math.max(glow, 0));
  }
  return mix(colour, [8, 9, 18], step(0.56 + 0.05 * Math.sin(11 * x) + 0.02 * Math.sin(31 * x), y) * step(0.605, -y + 1.21));
}

const SHADERS = /** @type {[string, Shader][]} */ ([['Hills', hills], ['Fruit', fruit], ['Night', night]]);

/** @param {number} width @param {number} height @returns {{name: string, picture: () => Picture}[]} */
export function samples(width, height) {
  return SHADERS.map(([name, shader]) => ({ name, picture: () => rendered(shader, width, height) }));
}

/** Colours as the nearest labels, for models that draw from these. @param {Picture} picture @param {import('./types.js').Label[]} labels @returns {Uint8Array<ArrayBuffer>} */
export function labelled({ data }, labels) {
  const known = labels.map(({ index, colour }) => ({ index, colour: toRGB(colour) }));
  return Uint8Array.from({ length: data.length / 3 }, (_, i) => {
    const away = (/** @type {RGB} */ colour) => colour.reduce((sum, c, k) => sum + (c - data[3 * i + k]) ** 2, 0);
    return known.reduce((best, label) => (away(label.colour) < away(best.colour) ? label : best)).index;
  });
}

/** @param {Shader} shader @param {number} width @param {number} height */
function rendered(shader, width, height) {
  const picture = new Picture(width, height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i += 3) {
      const colour = shader((x + 0.5) / width, (y + 0.5) / height);
      for (let c = 0; c < 3; c++) picture.data[i + c] = Math.min(Math.max(Math.round(colour[c]), 0), 255);
    }
  }
  return picture;
}
