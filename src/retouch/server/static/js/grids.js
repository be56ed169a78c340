/** What an edit computed, from the server's explanation. */

/**
 * @typedef {{height: number, width: number, active: number, rows: number, runs: number[]}} Grid
 * @typedef {{name: string, op: string, grid: number | null, active: number, rows: number, seconds: number | null, macs: number, dense_macs: number}} Layer
 * @typedef {{version: number, grids: Grid[], layers: Layer[]}} Explanation
 */

/** Which positions are active, 1 or 0, row by row; runs are pairs of start and length. @param {Grid} grid */
export function mask({ height, width, runs }) {
  const active = new Uint8Array(height * width);
  for (let i = 0; i + 1 < runs.length; i += 2) active.fill(1, runs[i], runs[i] + runs[i + 1]);
  return { width, height, active };
}

/** The grid with the most positions. @param {Grid[]} grids @returns {Grid | null} */
export const finest = (grids) => grids.reduce((/** @type {Grid | null} */ best, grid) => (best && best.rows >= grid.rows ? best : grid), null);

/** The share of the arithmetic that was computed. @param {Layer[]} layers */
export function share(layers) {
  const dense = layers.reduce((sum, layer) => sum + layer.dense_macs, 0);
  return dense ? layers.reduce((sum, layer) => sum + layer.macs, 0) / dense : 0;
}

/** Layers that took longest, or computed most where no time was measured. @param {Layer[]} layers @param {number} count */
export function heaviest(layers, count) {
  const cost = (/** @type {Layer} */ layer) => layer.seconds ?? layer.macs / 1e15;
  return [...layers].sort((a, b) => cost(b) - cost(a)).slice(0, count);
}
