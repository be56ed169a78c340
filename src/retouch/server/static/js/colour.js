/** Colours as `[r, g, b]` of 0 to 255, `#rrggbb`, and hue, saturation, value of 0 to 1. @import {RGB} from './types.js' */

/** @param {RGB} rgb */
export const toHex = (rgb) => `#${rgb.map((c) => Math.round(c).toString(16).padStart(2, '0')).join('')}`;

/** @param {RGB | string} colour @returns {RGB} */
export function toRGB(colour) {
  if (typeof colour !== 'string') return colour;
  const found = /^#?([0-9a-f]{6})$/i.exec(colour.trim());
  if (!found) throw new TypeError(`${colour} is no colour like #8040ff`);
  const value = parseInt(found[1], 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** @param {RGB} rgb @returns {[hue: number, saturation: number, value: number]} */
export function toHSV([r, g, b]) {
  const most = Math.max(r, g, b);
  const range = most - Math.min(r, g, b);
  if (!range) return [0, 0, most / 255];
  const sixth = most === r ? ((g - b) / range + 6) % 6 : most === g ? (b - r) / range + 2 : (r - g) / range + 4;
  return [sixth / 6, range / most, most / 255];
}

/** @param {number} hue @param {number} saturation @param {number} value @returns {RGB} */
export function fromHSV(hue, saturation, value) {
  const channel = (/** @type {number} */ n) => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}
