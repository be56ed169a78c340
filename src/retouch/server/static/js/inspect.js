/**
 * The last edit as a picture: active rows of every grid of the network, and the arithmetic of its layers.
 * @import {Studio} from './studio.js'
 * @import {Explanation, Grid, Layer, Network} from './grids.js'
 */
import { section } from './controls.js';
import { context, el, imageData } from './dom.js';
import { active, heaviest } from './grids.js';

const SHOWN = 12;

/** @param {Studio} studio */
export function inspect(studio) {
  const body = el('div', { className: 'inspect' });
  const part = section('What was computed', false, body);
  const show = async () => {
    if (!part.open || !part.isConnected) return;
    const found = await studio.looks.explanation();
    body.replaceChildren(...(found ? drawn(found) : [el('p', { className: 'quiet' }, 'Shown after an edit.')]));
  };
  part.addEventListener('toggle', show);
  studio.on('edited', show);
  return part;
}

/** @param {Explanation} found */
const drawn = ({ networks }) => networks.flatMap(network);

/** @param {Network} network */
function network({ network, calls, macs, dense_macs, grids, layers }) {
  const title = el('h2', {}, network, el('span', { className: 'quiet' }, ` ${calls}x, ${percent(macs, dense_macs)} of the arithmetic`));
  const tiles = el('div', { className: 'grids' }, ...[...grids].sort((a, b) => b.height * b.width - a.height * a.width).map(grid));
  const heavy = heaviest(layers, SHOWN).filter(({ macs }) => macs);
  const most = Math.max(...heavy.map(({ macs }) => macs), 1);
  const head = el('tr', {}, ...['Layer', 'Rows', 'MMAC'].map((text) => el('th', { scope: 'col' }, text)));
  return [title, tiles, el('table', {}, el('thead', {}, head), el('tbody', {}, ...heavy.map((layer) => row(layer, most))))];
}

/** @param {number} part @param {number} all */
const percent = (part, all) => (all ? `${((100 * part) / all).toFixed(1)} %` : '');

/** @param {Grid} grid */
function grid(grid) {
  const { width, height, active: positions } = active(grid);
  const rgba = new Uint8ClampedArray(width * height * 4);
  positions.forEach((on, i) => rgba.set(on ? [255, 138, 61, 255] : [128, 128, 134, 70], 4 * i));
  const canvas = el('canvas', { width, height });
  context(canvas).putImageData(imageData(rgba, width), 0, 0);
  return el('figure', { title: `${grid.active} of ${height * width} rows` }, canvas, el('figcaption', {}, `${width}x${height}`), el('figcaption', {}, percent(grid.active, height * width)));
}

/** @param {Layer} layer @param {number} most */
function row({ name, op, rows, of, macs }, most) {
  const work = el('td', { className: 'work' }, (macs / 1e6).toFixed(1));
  work.style.setProperty('--part', String(macs / most));
  return el('tr', {}, el('th', { scope: 'row', title: `${name}: ${op}` }, name), el('td', {}, percent(rows, of)), work);
}
