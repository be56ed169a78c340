/**
 * From coverage to paint: how a step's coverage changes an overlay (RGBA8, straight alpha) or a mask.
 * @import {Rect, RGB} from './types.js'
 * @import {Picture} from './picture.js'
 */
import { TILE, Tiles } from './tiles.js';

/**
 * @typedef {{kind: 'colour', colour: RGB} | {kind: 'erase'} | {kind: 'from', picture: Picture, dx: number, dy: number}} Ink
 *   A colour; nothing, which uncovers; or pixels of a picture, moved by (dx, dy): the clone stamp.
 */

/** A step that paints on a layer of one channel (a mask) or four. Ended by `commit` or `abort`. */
export class Step {
  /**
   * @param {Tiles} layer @param {Ink} ink @param {number} opacity from 0 to 1
   * @param {boolean} crisp Pixels are covered or not, nothing between: for labels.
   */
  constructor(layer, ink, opacity, crisp = false) {
    this.layer = layer;
    this.ink = ink;
    this.opacity = crisp ? 1 : opacity;
    this.crisp = crisp;
    this.cover = new Tiles(layer.width, layer.height, 1);
    layer.begin();
  }

  /** Brings the layer up to date where coverage has changed. @param {Rect | null} rect */
  update(rect) {
    const { ink, layer } = this;
    const amounts = Float32Array.from({ length: 256 }, (_, cover) => (this.crisp ? Number(cover > 127) : (cover / 255) * this.opacity));
    this.cover.each(rect, (part, number, x0, y0) => {
      const cover = this.cover.at(number);
      if (!cover) return;
      const to = layer.writable(number);
      const from = layer.before(number);
      for (let y = part[1]; y < part[1] + part[3]; y++) {
        for (let x = part[0]; x < part[0] + part[2]; x++) {
          const i = (y - y0) * TILE + x - x0;
          if (!cover[i]) continue;
          const amount = amounts[cover[i]];
          if (layer.channels === 1) maskPixel(to, from, i, amount, ink.kind === 'erase');
          else if (ink.kind === 'colour') over(to, from, 4 * i, amount, ink.colour[0], ink.colour[1], ink.colour[2]);
          else if (ink.kind === 'erase') erase(to, from, 4 * i, amount);
          else copied(to, from, 4 * i, amount, ink, x + ink.dx, y + ink.dy);
        }
      }
    });
  }

  commit() {
    this.layer.commit();
  }

  abort() {
    return this.layer.abort();
  }
}

/** @param {Uint8Array} to @param {Uint8Array | null} from @param {number} i @param {number} amount @param {boolean} erases */
function maskPixel(to, from, i, amount, erases) {
  const old = from ? from[i] : 0;
  to[i] = Math.round(erases ? old * (1 - amount) : Math.max(old, 255 * amount));
}

/**
 * A pixel of another picture over what was there; none from beyond its border.
 * @param {Uint8Array} to @param {Uint8Array | null} from @param {number} i @param {number} amount
 * @param {{picture: Picture}} ink @param {number} x @param {number} y
 */
function copied(to, from, i, amount, { picture: { width, height, data } }, x, y) {
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  const s = (y * width + x) * 3;
  over(to, from, i, amount, data[s], data[s + 1], data[s + 2]);
}

/**
 * The colour over what was there (Porter and Duff's "over", straight alpha).
 * @param {Uint8Array} to @param {Uint8Array | null} from @param {number} i @param {number} amount @param {number} r @param {number} g @param {number} b
 */
function over(to, from, i, amount, r, g, b) {
  if (amount === 1 || !from || !from[i + 3]) {
    to[i] = r;
    to[i + 1] = g;
    to[i + 2] = b;
    to[i + 3] = Math.round(255 * amount);
    return;
  }
  const under = (from[i + 3] / 255) * (1 - amount);
  const alpha = amount + under;
  const share = amount / alpha;
  to[i] = Math.round(r * share + from[i] * (1 - share));
  to[i + 1] = Math.round(g * share + from[i + 1] * (1 - share));
  to[i + 2] = Math.round(b * share + from[i + 2] * (1 - share));
  to[i + 3] = Math.round(255 * alpha);
}

/** @param {Uint8Array} to @param {Uint8Array | null} from @param {number} i @param {number} amount */
function erase(to, from, i, amount) {
  to[i + 3] = Math.round((from ? from[i + 3] : 0) * (1 - amount));
}

/**
 * The picture under an overlay, RGB8: what the eyedropper and the fill see.
 * @param {Picture} picture @param {Iterable<Tiles>} overlays
 */
export function composite(picture, overlays) {
  const out = picture.data.slice();
  for (const overlay of overlays) {
    overlay.each(overlay.extent(), (part, number, x0, y0) => {
      const tile = overlay.at(number);
      if (!tile) return;
      for (let y = part[1]; y < part[1] + part[3]; y++) {
        for (let x = part[0]; x < part[0] + part[2]; x++) {
          const i = ((y - y0) * TILE + x - x0) * 4;
          const o = (y * picture.width + x) * 3;
          const alpha = tile[i + 3] / 255;
          for (let c = 0; alpha && c < 3; c++) out[o + c] = Math.round(tile[i + c] * alpha + out[o + c] * (1 - alpha));
        }
      }
    });
  }
  return out;
}

/**
 * Layers of a rectangle over each other as RGBA8 with straight alpha, for a canvas.
 * @param {Tiles[]} layers from the lowest @param {Rect} rect
 */
export function flatten(layers, rect) {
  const out = new Uint8ClampedArray(rect[2] * rect[3] * 4);
  layers.forEach((layer, n) => {
    const pixels = layer.read(rect);
    if (n === 0) return out.set(pixels);
    for (let i = 0; i < pixels.length; i += 4) {
      if (pixels[i + 3]) over(/** @type {any} */ (out), /** @type {any} */ (out), i, pixels[i + 3] / 255, pixels[i], pixels[i + 1], pixels[i + 2]);
    }
  });
  return out;
}

/** Masks in one colour as RGBA8, for a canvas. @param {Tiles[]} masks @param {Rect} rect @param {RGB} colour @param {number} opacity */
export function tint(masks, rect, colour, opacity) {
  const out = new Uint8ClampedArray(rect[2] * rect[3] * 4);
  for (const mask of masks) {
    mask.read(rect).forEach((value, i) => {
      if (!value) return;
      out.set(colour, 4 * i);
      out[4 * i + 3] = Math.max(out[4 * i + 3], Math.round(value * opacity));
    });
  }
  return out;
}
