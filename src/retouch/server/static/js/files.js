/**
 * Pictures to files and what lies in them.
 * @import {SessionFacts, Version} from './types.js'
 * @import {Values} from './options.js'
 * @import {Picture} from './picture.js'
 */
import { el } from './dom.js';
import { encode, texts } from './png.js';

const KEYWORD = 'retouch';

/** Settings that reopen with the picture. @param {SessionFacts} facts @param {Version | null} version @param {Values} values @returns {Record<string, string>} */
export function metadata(facts, version, { negative, strength, seed, prompt }) {
  const { model, settings } = facts;
  return { [KEYWORD]: JSON.stringify({ ...settings, model, prompt: version?.prompt ?? prompt, negative, strength, seed }) };
}

/** The settings inside a picture that was exported here, null when there are none. @param {Blob} file @returns {Promise<Record<string, any> | null>} */
export async function settingsIn(file) {
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    return JSON.parse(file.type === 'image/png' ? texts(bytes)[KEYWORD] : described(bytes));
  } catch {
    return null;
  }
}

/** @type {Record<string, string>} */
const ENTITIES = { quot: '"', lt: '<', gt: '>', amp: '&' };

/** What the XMP of a JPEG or WebP says of them; empty where it says nothing. @param {Uint8Array} bytes */
export function described(bytes) {
  const [, found = ''] = new TextDecoder('latin1').decode(bytes).match(/ retouch:settings="([^"]*)"/) ?? [];
  return found.replace(/&(quot|lt|gt|amp);/g, (_, name) => ENTITIES[name]);
}

/** A PNG from the exact buffer. @param {Picture} picture @param {Record<string, string>} text @returns {Promise<Blob>} */
export function encoded({ width, height, data }, text) {
  return encode({ width, height, channels: 3, data, text });
}

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const href = URL.createObjectURL(blob);
  el('a', { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
