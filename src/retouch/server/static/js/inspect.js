/**
 * The last edit as a picture: active rows of every grid of the network, arithmetic and time of its layers.
 * @import {Studio} from './studio.js'
 * @import {Explanation, Grid, Layer, Network} from './grids.js'
 */
import { section } from './controls.js';
import { context, el, imageData } from './dom.js';
import { active, millisecondsOf, sorted } from './grids.js';

const SHOWN = 12;

/**
 * @typedef {'share' | 'macs' | 'time'} Order
 * @typedef {{order: Order, all: boolean, sort: (order: Order) => void, more: () => void}} Shown How the tables are shown.
 */

/** Columns of the table: what is written, and how long the bar is. @type {Record<Order, {text: string, title: string, of: (layer: Layer) => number, write: (layer: Layer) => string}>} */
const COLUMNS = {
  share: { text: 'Rows %', title: 'Share of the rows that were computed', of: ({ rows, of }) => rows / (of || 1), write: ({ rows, of }) => (of ? ((100 * rows) / of).toFixed(1) : '') },
  macs: { text: 'MMAC', title: 'Million multiply-accumulates', of: ({ macs }) => macs, write: ({ macs }) => (macs / 1e6).toFixed(1) },
  time: { text: 'ms', title: 'Milliseconds', of: millisecondsOf, write: (layer) => millisecondsOf(layer).toFixed(2) },
};

/** @param {Studio} studio */
export function inspect(studio) {
  const body = el('div', { className: 'inspect' });
  const part = section('What was computed', false, body);
  /** @type {Shown} */
  const shown = {
    order: 'macs',
    all: false,
    sort: (order) => {
      shown.order = order;
      show();
    },
    more: () => {
      shown.all = !shown.all;
      show();
    },
  };
  const show = async (timed = false) => {
    if (!part.open || !part.isConnected) return;
    const found = await studio.looks.explanation(timed);
    const none = found ? 'The edit left no recording to read it from.' : 'Shown after an edit.';
    body.replaceChildren(...(found?.networks.length ? drawn(found, shown, () => show(true)) : [el('p', { className: 'quiet' }, none)]));
  };
  part.addEventListener('toggle', () => show().then(() => part.scrollIntoView({ block: 'nearest' })));
  studio.on('edited', () => show());
  return part;
}

/** @param {Explanation} found @param {Shown} shown @param {() => void} measure */
function drawn({ networks }, shown, measure) {
  const measured = networks.some(({ layers }) => layers.some(({ milliseconds }) => milliseconds !== null));
  const note = measured ? el('p', { className: 'hint' }, 'Milliseconds as measured, one call of each network.') : el('button', { type: 'button', className: 'link', title: 'Until then milliseconds are predicted', onclick: measure }, 'Measure the time of every layer');
  return [...networks.flatMap((one) => network(one, shown)), note];
}

/** @param {Network} network @param {Shown} shown */
function network({ network, calls, macs, dense_macs, grids, layers }, shown) {
  const title = el('h2', {}, network, el('span', { className: 'quiet' }, ` ${calls}x, ${percent(macs, dense_macs)} of the arithmetic`));
  const tiles = el('div', { className: 'grids' }, ...[...grids].sort((a, b) => b.height * b.width - a.height * a.width).map(grid));
  const computed = layers.filter((layer) => layer.macs || millisecondsOf(layer));
  const listed = sorted(computed, COLUMNS[shown.order].of).slice(0, shown.all ? undefined : SHOWN);
  const most = Math.max(...computed.map(COLUMNS[shown.order].of), 1e-9);
  const more = el('button', { type: 'button', className: 'link', hidden: computed.length <= SHOWN, onclick: shown.more }, shown.all ? `The first ${SHOWN}` : `All ${computed.length} layers`);
  return [title, tiles, el('table', {}, head(shown), el('tbody', {}, ...listed.map((layer) => row(layer, shown.order, most)))), more];
}

/** @param {Shown} shown */
function head({ order, sort }) {
  const columns = Object.entries(COLUMNS).map(([name, { text, title }]) => {
    const by = el('button', { type: 'button', title: `${title}: sort by it`, onclick: () => sort(/** @type {Order} */ (name)) }, text);
    return el('th', { scope: 'col', 'aria-sort': name === order ? 'descending' : null }, by);
  });
  return el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'Layer'), ...columns));
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

/** @param {Layer} layer @param {Order} order @param {number} most */
function row(layer, order, most) {
  const { name, op, grid, predicted_milliseconds: predicted, milliseconds } = layer;
  const told = milliseconds !== null && predicted !== null ? `, ${predicted.toFixed(2)} ms predicted` : '';
  const cells = Object.entries(COLUMNS).map(([key, { of, write }]) => {
    const cell = el('td', { className: key === order ? 'work' : '' }, write(layer));
    if (key === order) cell.style.setProperty('--part', String(of(layer) / most));
    return cell;
  });
  return el('tr', {}, el('th', { scope: 'row', title: `${name}: ${op}${grid ? ` on ${grid}` : ''}${told}` }, name), ...cells);
}
