/**
 * What was painted, as it travels: settings and files of one rectangle.
 * @import {Area} from './areas.js'
 * @import {Rect} from './types.js'
 * @import {Tiles} from './tiles.js'
 */
import { encode } from './png.js';

/** @typedef {{overlay: Blob | null, mask: Blob | null, areas: Blob[]}} Files */

/**
 * @param {{paint: Tiles, mask: Tiles, areas: Area[], rect: Rect, wanted: object}} drawn
 * @returns {Promise<{settings: object, files: Files}>}
 */
export async function packed({ paint, mask, areas, rect, wanted }) {
  const [, , width, height] = rect;
  const grey = (/** @type {Tiles} */ layer) => encode({ width, height, channels: 1, data: layer.read(rect) });
  const overlay = paint.isEmpty ? null : await encode({ width, height, channels: 4, data: paint.read(rect) });
  const files = { overlay, mask: mask.isEmpty ? null : await grey(mask), areas: await Promise.all(areas.map((area) => grey(area.mask))) };
  const words = areas.length ? { areas: areas.map((area) => ({ prompt: area.words.trim() })) } : {};
  return { settings: { ...wanted, ...words, rect, kind: files.mask && !overlay && !areas.length ? 'inpaint' : 'edit' }, files };
}
