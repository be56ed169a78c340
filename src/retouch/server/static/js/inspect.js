/**
 * The last edit as a picture: active rows of every grid of the network, and what layers cost.
 * @import {Studio} from './app.js'
 * @import {Explanation, Grid, Layer} from './grids.js'
 */
import { section } from './controls.js';
import { context, el, imageData } from './dom.js';
import { heaviest, mask } from './grids.js';

const SHOWN = 24;

/** @param {Studio} studio */
export function inspect(studio) {
  const body = el('div', { className: 'inspect' });
  const part = section('What was computed', false, body);
  const show = async () => {
    if (!part.open || !part.isConnected) return;
    const found = await studio.explanation();
    body.replaceChildren(...(found ? drawn(found) : [el('p', { className: 'quiet' }, 'Shown after an edit.')]));
  };
  part.addEventListener('toggle', show);
  studio.on('edited', show);
  return part;
}

/** @param {Explanation} found */
function drawn({ grids, layers }) {
  const tiles = el('div', { className: 'grids' }, ...[...grids].sort((a, b) => b.rows - a.rows).map(grid));
  const most = Math.max(...layers.map((layer) => layer.seconds ?? 0), 1e-9);
  const rows = heaviest(layers, SHOWN).map((layer) => row(layer, most));
  const head = el('tr', {}, ...['Layer', 'Rows', 'Arithmetic', 'ms'].map((text) => el('th', { scope: 'col' }, text)));
  return [tiles, el('table', {}, el('thead', {}, head), el('tbody', {}, ...rows))];
}

/** @param {Grid} grid */
function grid(grid) {
  const { width, height, active } = mask(grid);
  const rgba = new Uint8ClampedArray(width * height * 4);
  active.forEach((on, i) => rgba.set(on ? [255, 138, 61, 255] : [128, 128, 134, 70], 4 * i));
  const canvas = el('canvas', { width, height });
  context(canvas).putImageData(imageData(rgba, width), 0, 0);
  const part = ((100 * grid.active) / grid.rows).toFixed(1);
  return el('figure', { title: `${grid.active} of ${grid.rows} rows` }, canvas, el('figcaption', {}, `${width}x${height}: ${part} %`));
}

/** @param {Layer} layer @param {number} most */
function row(layer, most) {
  const part = layer.dense_macs ? `${((100 * layer.macs) / layer.dense_macs).toFixed(1)} %` : '';
  const time = el('td', { className: 'time' }, layer.seconds === null ? '' : (1000 * layer.seconds).toFixed(2));
  time.style.setProperty('--part', String((layer.seconds ?? 0) / most));
  return el('tr', {}, el('th', { scope: 'row', title: `${layer.name}: ${layer.op}` }, layer.name), el('td', {}, layer.rows ? `${((100 * layer.active) / layer.rows).toFixed(1)} %` : ''), el('td', {}, part), time);
}
