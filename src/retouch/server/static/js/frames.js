/**
 * Binary messages of a session: u32 little-endian length of the header, the header as JSON, then bytes.
 * @import {Frame, FrameHeader} from './types.js'
 */
import { decode, inflate, rgb } from './png.js';

const KINDS = ['preview', 'result', 'refined', 'head', 'picture'];
const LONGEST_HEADER = 1 << 16;

/** @param {ArrayBuffer} message @returns {Frame} @throws {TypeError} for what is no frame */
export function parse(message) {
  const length = message.byteLength >= 4 ? new DataView(message).getUint32(0, true) : 0;
  if (!length || length > LONGEST_HEADER || 4 + length > message.byteLength) throw new TypeError('a frame without a header');
  /** @type {FrameHeader} */
  const header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array(message, 4, length)));
  const whole = Array.isArray(header.rect) && header.rect.length === 4 && header.rect.every((n) => Number.isInteger(n) && n >= 0);
  if (!KINDS.includes(header.kind) || !whole) throw new TypeError(`a frame of kind ${header.kind} with rectangle ${header.rect}`);
  return { header, bytes: new Uint8Array(message, 4 + length) };
}

/** Messages that were sent back to back. @param {Uint8Array<ArrayBuffer>} data @returns {Frame[]} @throws {TypeError} */
export function split(data) {
  const found = [];
  for (let at = 0; at < data.length; ) {
    const { header, bytes } = parse(data.slice(at).buffer);
    const end = data.length - at - bytes.length + (header.bytes ?? bytes.length);
    found.push({ header, bytes: bytes.subarray(0, header.bytes) });
    at += end;
  }
  return found;
}

/**
 * The exact pixels of a lossless frame: RGB8 of its rectangle, or RGBA8 that is transparent where nothing changes.
 * @param {Frame} frame @throws {TypeError} when bytes and rectangle do not fit
 */
export async function pixels({ header, bytes }) {
  const [, , width, height] = header.rect;
  if (!width || !height) return new Uint8Array();
  if (header.encoding === 'webp') throw new TypeError('WebP is only for previews');
  const image = header.encoding === 'raw' ? { channels: 3, data: await inflate(bytes, width * height * 3) } : await decode(bytes);
  const data = 'width' in image && image.channels !== 4 ? rgb(image) : image.data;
  if (data.length !== width * height * (image.channels === 4 ? 4 : 3)) throw new TypeError(`${data.length} bytes for ${width}x${height} pixels`);
  return data;
}
