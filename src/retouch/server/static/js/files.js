/**
 * Pictures to files and what lies in them.
 * @import {SessionFacts, Version} from './types.js'
 * @import {Values} from './options.js'
 * @import {Picture} from './picture.js'
 */
import { el, imageData } from './dom.js';
import { encode, texts } from './png.js';

const KEYWORD = 'retouch';

/** Settings that reopen with the picture. @param {SessionFacts} facts @param {Version | null} version @param {Values} values @returns {Record<string, string>} */
export function metadata(facts, version, { negative, strength, seed, prompt }) {
  const { model, settings } = facts;
  return { [KEYWORD]: JSON.stringify({ ...settings, model, prompt: version?.prompt ?? prompt, negative, strength, seed }) };
}

/** The settings inside a PNG that was exported here, null when there are none. @param {Blob} file @returns {Promise<Record<string, any> | null>} */
export async function settingsIn(file) {
  try {
    return JSON.parse(texts(new Uint8Array(await file.arrayBuffer()))[KEYWORD]);
  } catch {
    return null;
  }
}

/** PNG from the exact buffer; other formats by the browser. @param {Picture} picture @param {string} type @param {number} quality @param {Record<string, string>} text @returns {Promise<Blob>} */
export async function encoded(picture, type, quality, text) {
  const { width, height, data } = picture;
  if (type === 'image/png') return encode({ width, height, channels: 3, data, text });
  const canvas = new OffscreenCanvas(width, height);
  /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d')).putImageData(imageData(picture.rgba(picture.whole), width), 0, 0);
  return canvas.convertToBlob({ type, quality });
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const href = URL.createObjectURL(blob);
  el('a', { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
