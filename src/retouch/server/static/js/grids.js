/** What an edit computed, from the server's explanation. */

/**
 * @typedef {{height: number, width: number, active: number, mask: string}} Grid `mask`: eight positions a byte, the
 *   leftmost in the highest bit, row after row, in base64
 * @typedef {{name: string, op: string, grid: string, rows: number, of: number, macs: number, dense_macs: number,
 *   milliseconds: number | null, predicted_milliseconds: number | null}} Layer `rows` were computed `of` so many
 * @typedef {{network: string, calls: number, macs: number, dense_macs: number, rect?: import('./types.js').Rect, grids: Grid[], layers: Layer[]}} Network
 *   `rect`: where the grids lie in the picture
 * @typedef {{version: number, networks: Network[]}} Explanation
 */

/** Which positions are active, 1 or 0, row after row. @param {Grid} grid */
export function active({ height, width, mask }) {
  const bytes = atob(mask);
  const out = new Uint8Array(height * width);
  for (let i = 0; i < out.length; i++) out[i] = (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1;
  return { width, height, active: out };
}

/** The grid with the most positions in which not all are active, else the one with the most. @param {Network[]} networks @returns {Grid | null} */
export function finest(networks) {
  const size = (/** @type {Grid} */ { height, width, active }) => height * width * (active < height * width ? 1e9 : 1);
  return networks.flatMap(({ grids }) => grids).reduce((/** @type {Grid | null} */ best, grid) => (best && size(best) >= size(grid) ? best : grid), null);
}

/** As measured, else as predicted, else 0. @param {Layer} layer */
export const millisecondsOf = ({ milliseconds, predicted_milliseconds: predicted }) => milliseconds ?? predicted ?? 0;

/** Layers from the most of something. @param {Layer[]} layers @param {(layer: Layer) => number} of */
export const sorted = (layers, of) => [...layers].sort((a, b) => of(b) - of(a));
