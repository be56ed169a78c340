/** Objects of a map of labels: which there are, and of which label each is. @import {Label} from './types.js' */
import { toRGB } from './colour.js';

/** @typedef {{id: number, label: Label, count: number}} Instance `count`: its pixels. */

/** Ids from a map that came as RGB8: red + 256 green + 65536 blue. @param {Uint8Array} rgb */
export function idsOf(rgb) {
  const ids = new Int32Array(rgb.length / 3);
  for (let i = 0; i < ids.length; i++) ids[i] = rgb[3 * i] + 256 * rgb[3 * i + 1] + 65536 * rgb[3 * i + 2];
  return ids;
}

/** The objects of a map, the largest first. @param {Int32Array} ids @param {Uint8Array} rgb the map in the labels' colours @param {Label[]} labels @returns {Instance[]} */
export function instancesOf(ids, rgb, labels) {
  const byColour = new Map(labels.map((label) => [numberOf(toRGB(label.colour), 0), label]));
  /** @type {Map<number, Instance>} */
  const found = new Map();
  ids.forEach((id, i) => {
    const known = found.get(id);
    const label = known?.label ?? byColour.get(numberOf(rgb, 3 * i));
    if (known) known.count++;
    else if (label) found.set(id, { id, label, count: 1 });
  });
  return [...found.values()].sort((a, b) => b.count - a.count);
}

/** @param {ArrayLike<number>} rgb @param {number} i */
const numberOf = (rgb, i) => rgb[i] + 256 * rgb[i + 1] + 65536 * rgb[i + 2];
