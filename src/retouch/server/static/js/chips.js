/**
 * Lists in the panel of what edits may go into: areas with words of their own, objects of a map of labels.
 * @import {Area} from './areas.js'
 * @import {Live} from './live.js'
 * @import {Studio} from './studio.js'
 */
import { MOST } from './areas.js';
import { toHex, toRGB } from './colour.js';
import { el, iconButton } from './dom.js';

/** @param {Studio} studio @param {Live} live */
export function areaList(studio, live) {
  const { areas } = live;
  const list = el('div', { className: 'area-list', role: 'group', 'aria-label': 'Areas with words of their own' });
  const add = el('button', { type: 'button', className: 'wide', onclick: () => mark(studio, areas.add()) }, 'Add an area');
  const hint = el('p', { className: 'hint' });
  /** @type {Map<Area, HTMLElement & {show: () => void}>} */
  const rows = new Map();
  const show = () => {
    for (const area of areas.list) if (!rows.has(area)) rows.set(area, row(studio, live, area));
    for (const [area, element] of rows) if (!areas.list.includes(area)) rows.delete(area) && element.remove();
    for (const area of areas.list) if (!rows.get(area)?.isConnected) list.append(/** @type {Node} */ (rows.get(area)));
    for (const element of rows.values()) element.show();
    add.disabled = areas.list.length >= MOST;
    hint.textContent = hintOf(live);
  };
  areas.on('change', show);
  show();
  return [list, hint, add];
}

/** What is to be done next. @param {Live} live */
function hintOf({ areas: { selected, list, ready } }) {
  if (!list.length) return 'Mark a part of the picture and say what is there.';
  if (selected?.mask.isEmpty) return 'Paint over the part: the mask brush marks it.';
  if (selected && !selected.words.trim()) return 'Now say what is there.';
  return ready.length ? 'Run computes it (Ctrl+Enter).' : 'Switched off: the next edit goes without them.';
}

/** Its mask is painted from now on. @param {Studio} studio @param {Area} area */
function mark(studio, area) {
  studio.live?.areas.select(area);
  if (!studio.options.values.intoMask) studio.options.set({ tool: 'mask' });
}

/** @param {Studio} studio @param {Live} live @param {Area} area */
function row(studio, { areas }, area) {
  const number = areas.list.indexOf(area) + 1;
  const dot = el('button', { type: 'button', className: 'dot', title: 'Mark where it is', 'aria-label': `Mark area ${number}`, onclick: () => mark(studio, area) });
  const words = el('input', { type: 'text', placeholder: 'What is there', 'aria-label': `Words for area ${number}`, maxLength: 2000, autocomplete: 'off' });
  const on = el('input', { type: 'checkbox', className: 'switch', title: 'In the next edit', 'aria-label': `Area ${number} in the next edit` });
  words.oninput = () => areas.set(area, { words: words.value, on: true });
  words.onkeydown = ({ key }) => key === 'Enter' && areas.ready.length && studio.act('apply');
  on.onchange = () => areas.set(area, { on: on.checked });
  const element = el('div', { className: 'area' }, dot, words, on, iconButton('close', `Remove area ${number}`, () => areas.remove(area)));
  element.style.setProperty('--front', toHex(area.colour));
  const show = () => {
    dot.setAttribute('aria-pressed', String(areas.selected === area));
    on.checked = area.on;
  };
  return Object.assign(element, { show });
}

/** @param {Studio} studio @param {Live} live */
export function objectList(studio, live) {
  const list = el('div', { className: 'labels objects', role: 'listbox', 'aria-label': 'Objects' });
  const show = () => {
    const fresh = el('button', { type: 'button', role: 'option', className: 'label', 'aria-selected': String(live.instance === null), onclick: () => live.choose(null) }, el('i', { className: 'new' }), el('span', {}, 'A new object with each stroke'));
    list.replaceChildren(fresh, ...live.instances.map((one) => object(studio, live, one)));
  };
  live.on('instances', show);
  show();
  return list;
}

/** @param {Studio} studio @param {Live} live @param {import('./instances.js').Instance} instance */
function object(studio, live, { id, label, count }) {
  const choose = () => {
    live.choose(id);
    studio.options.set({ label: label.index });
  };
  const look = (/** @type {boolean} */ on) => () => studio.stage.region(on ? live.maskOf(id) : null);
  const item = el('button', { type: 'button', role: 'option', className: 'label', 'aria-selected': String(live.instance === id), onclick: choose, onpointerenter: look(true), onpointerleave: look(false), onfocus: look(true), onblur: look(false) }, el('i', {}), el('span', {}, `${label.name}, object ${id}`), el('span', { className: 'quiet' }, `${((100 * count) / (live.input.width * live.input.height)).toFixed(1)} %`));
  item.style.setProperty('--front', toHex(toRGB(label.colour)));
  return item;
}
