/**
 * The truth about a picture: RGB8, `[height, width, 3]`. Canvases only show it.
 * @import {Rect} from './types.js'
 */
import { intersect } from './rects.js';

export class Picture {
  /** @param {number} width @param {number} height @param {Uint8Array<ArrayBuffer>} data */
  constructor(width, height, data = new Uint8Array(width * height * 3)) {
    if (data.length !== width * height * 3) throw new RangeError(`${width}x${height} pixels need ${width * height * 3} bytes, not ${data.length}`);
    this.width = width;
    this.height = height;
    this.data = data;
  }

  /** @returns {Rect} */
  get whole() {
    return [0, 0, this.width, this.height];
  }

  /** @returns {Picture} */
  copy() {
    return new Picture(this.width, this.height, this.data.slice());
  }

  /**
   * Puts pixels into a rectangle: RGB8, or RGBA8 of which transparent ones leave what is there.
   * @param {Rect} rect @param {Uint8Array} pixels
   */
  put(rect, pixels) {
    const [left, top, width, height] = rect;
    const fits = left >= 0 && top >= 0 && left + width <= this.width && top + height <= this.height;
    const channels = pixels.length / (width * height);
    if (!fits || (channels !== 3 && channels !== 4)) throw new RangeError(`${pixels.length} bytes do not fit rectangle ${rect}`);
    if (channels === 4) return this.#lay(rect, pixels);
    for (let y = 0; y < height; y++) {
      this.data.set(pixels.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * this.width + left) * 3);
    }
  }

  /** @param {Rect} rect @param {Uint8Array} rgba */
  #lay([left, top, width, height], rgba) {
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0, o = ((top + y) * this.width + left) * 3; x < width; x++, i += 4, o += 3) {
        if (rgba[i + 3]) this.data.set(rgba.subarray(i, i + 3), o);
      }
    }
  }

  /** Copies another picture in, as far as it lies inside. @param {Picture} other @param {number} left where its corner comes to @param {number} top */
  place(other, left, top) {
    const inside = intersect([left, top, other.width, other.height], this.whole);
    if (!inside) return;
    const [x, y0, width, height] = inside;
    for (let y = y0; y < y0 + height; y++) {
      const from = ((y - top) * other.width + x - left) * 3;
      this.data.set(other.data.subarray(from, from + width * 3), (y * this.width + x) * 3);
    }
  }

  /** As RGBA8 for a canvas, opaque. @param {Rect} rect */
  rgba(rect) {
    const [left, top, width, height] = /** @type {Rect} */ (intersect(rect, this.whole) ?? [0, 0, 0, 0]);
    const out = new Uint8ClampedArray(width * height * 4);
    for (let y = 0, o = 0; y < height; y++) {
      let i = ((top + y) * this.width + left) * 3;
      for (let x = 0; x < width; x++, i += 3, o += 4) {
        out[o] = this.data[i];
        out[o + 1] = this.data[i + 1];
        out[o + 2] = this.data[i + 2];
        out[o + 3] = 255;
      }
    }
    return out;
  }

  /** SHA-256 of the pixels in hexadecimal. */
  async hash() {
    const digest = await crypto.subtle.digest('SHA-256', this.data);
    return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  }

  /**
   * Where this picture differs from `other`, as RGBA8: black where equal, brighter the larger the difference.
   * @param {Picture} other of the same size @param {number} gain
   */
  difference(other, gain = 4) {
    const out = new Uint8ClampedArray(this.width * this.height * 4);
    for (let i = 0, o = 0; o < out.length; i += 3, o += 4) {
      for (let c = 0; c < 3; c++) out[o + c] = gain * Math.abs(this.data[i + c] - other.data[i + c]);
      out[o + 3] = 255;
    }
    return out;
  }
}
