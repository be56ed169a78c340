/**
 * The tree of versions at the bottom: one thumbnail each, branches as rows.
 * @import {Studio} from './studio.js'
 * @import {Node, Edge} from './tree.js'
 */
import { byId, el, svg } from './dom.js';
import { thumb } from './panels.js';
import { layout } from './tree.js';
import { saved } from './words.js';

const WIDTH = 76;
const HEIGHT = 66;
const THUMB = 52;

/** @param {Studio} studio */
export function timeline(studio) {
  const lines = svg('svg', { class: 'lines', 'aria-hidden': 'true' });
  const nodes = el('div', { className: 'nodes', role: 'group', 'aria-label': 'Versions' });
  const field = el('div', { className: 'field' }, lines, nodes);
  const element = byId('history');
  element.append(field);
  /** @type {Map<number, HTMLElement>} */
  const made = new Map();
  let shown = '';
  const show = () => {
    const { live } = studio;
    element.hidden = !live;
    if (!live) return;
    if (shown !== live.id) made.clear();
    shown = live.id;
    const { nodes: placed, edges, columns, rows } = layout(live.tree);
    Object.assign(field.style, { width: `${columns * WIDTH + 12}px`, height: `${rows * HEIGHT + 14}px` });
    lines.setAttribute('width', String(columns * WIDTH + 12));
    lines.setAttribute('height', String(rows * HEIGHT + 14));
    lines.replaceChildren(...edges.map(line));
    nodes.replaceChildren(...placed.map((node) => item(studio, node, made)));
    element.style.setProperty('--rows', String(Math.min(rows, 2)));
    nodes.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  };
  let refinements = 0;
  studio.on('refined', (version) => {
    const image = made.get(version)?.querySelector('img');
    if (image) image.src = `${image.src.split('&')[0]}&refined=${++refinements}`;
  });
  studio.on('tree', show);
  studio.on('session', show);
  nodes.addEventListener('keydown', (event) => arrows(event, nodes));
  show();
}

/** A version's button, made once: its picture does not change but by refinement. @param {Studio} studio @param {Node} node @param {Map<number, HTMLElement>} made */
function item(studio, { version, column, row }, made) {
  const name = version.name || (version.parent === null ? 'Original' : `Version ${version.version}`);
  const facts = saved(version);
  let element = made.get(version.version);
  if (!element) {
    element = thumb(studio, version.version, name);
    element.append(el('span', { className: 'name' }));
    element.addEventListener('dblclick', () => studio.act('name'));
    made.set(version.version, element);
  }
  const text = [name, facts, version.prompt].filter(Boolean).join('. ');
  element.title = text;
  element.setAttribute('aria-label', text);
  /** @type {HTMLElement} */ (element.lastChild).textContent = version.name ?? '';
  element.toggleAttribute('aria-current', false);
  if (version.version === studio.live?.head) element.setAttribute('aria-current', 'true');
  Object.assign(element.style, { left: `${column * WIDTH + 10}px`, top: `${row * HEIGHT + 7}px` });
  Object.assign(element.dataset, { column, row });
  return element;
}

/** @param {Edge} edge */
function line({ from, to }) {
  const [x0, y0] = [from.column * WIDTH + 10 + THUMB, from.row * HEIGHT + 7 + THUMB / 2];
  const [x1, y1] = [to.column * WIDTH + 10, to.row * HEIGHT + 7 + THUMB / 2];
  const bend = from.row === to.row ? `H${x1}` : `h6 V${y1 - 8} q0 8 8 8 H${x1}`;
  return svg('path', { d: `M${x0} ${y0}${bend}` });
}

/** @param {KeyboardEvent} event @param {HTMLElement} nodes */
function arrows(event, nodes) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const at = /** @type {HTMLElement} */ (document.activeElement);
  if (!way || !nodes.contains(at)) return;
  const distance = (/** @type {Element} */ other) => {
    const { column, row } = /** @type {HTMLElement} */ (other).dataset;
    const [x, y] = [Number(column) - Number(at.dataset.column), Number(row) - Number(at.dataset.row)];
    const along = x * way[0] + y * way[1];
    return along > 0 ? along + 4 * Math.abs(x * way[1]) + 4 * Math.abs(y * way[0]) : Infinity;
  };
  const nearest = [...nodes.children].sort((a, b) => distance(a) - distance(b))[0];
  if (nearest && distance(nearest) < Infinity) /** @type {HTMLElement} */ (nearest).focus();
  event.preventDefault();
}
