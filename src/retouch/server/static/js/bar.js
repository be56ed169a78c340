/**
 * The bar at the top and the column of tools.
 * @import {Studio} from './studio.js'
 */
import { check, percent, scrub, SIZES } from './controls.js';
import { byId, el, icon, iconButton } from './dom.js';
import { BINDINGS, keyOf } from './keys.js';
import { NAMES } from './tools.js';

/** Options that each tool has. @type {Record<string, string[]>} */
const HAS = {
  brush: ['size', 'hardness', 'opacity', 'smoothing', 'pressure'],
  mask: ['size', 'hardness', 'opacity', 'smoothing', 'pressure'],
  eraser: ['size', 'hardness', 'opacity', 'smoothing', 'pressure'],
  clone: ['size', 'hardness', 'opacity', 'smoothing'],
  fill: ['tolerance', 'opacity', 'intoMask'],
  rectangle: ['outline', 'size', 'opacity', 'intoMask'],
  ellipse: ['outline', 'size', 'opacity', 'intoMask'],
  lasso: ['opacity', 'intoMask'],
  text: ['size', 'opacity'],
  eyedropper: [],
  hand: [],
};

/** @param {Studio} studio */
export function tools(studio) {
  const { options } = studio;
  const buttons = NAMES.map((name) => {
    const text = BINDINGS.find(({ action }) => action === `tool:${name}`)?.text ?? name;
    const button = iconButton(name, text, () => options.set({ tool: name }), keyOf(`tool:${name}`));
    button.dataset.tool = name;
    return button;
  });
  const swatch = el('span', { className: 'now', 'aria-hidden': 'true' });
  byId('tools').append(...buttons, swatch);
  roving(byId('tools'), buttons, 'ArrowUp', 'ArrowDown');
  const show = () => {
    for (const button of buttons) button.setAttribute('aria-pressed', String(button.dataset.tool === options.values.tool));
    swatch.style.setProperty('--front', studio.inkColour());
  };
  options.on('change', show);
  studio.on('session', () => {
    const { inpaint, labels } = studio.live?.facts.capabilities ?? { inpaint: true, labels: null };
    const hidden = [...(inpaint ? [] : ['mask']), ...(labels ? ['clone'] : [])];
    for (const button of buttons) button.hidden = hidden.includes(button.dataset.tool ?? '');
    if (hidden.includes(options.values.tool)) options.set({ tool: 'brush' });
    show();
  });
  show();
}

/** Arrow keys move within a toolbar, Tab leaves it. @param {HTMLElement} bar @param {HTMLElement[]} items @param {string} back @param {string} forth */
function roving(bar, items, back, forth) {
  items.forEach((item, i) => (item.tabIndex = i ? -1 : 0));
  bar.addEventListener('focusin', ({ target }) => {
    for (const item of items) item.tabIndex = item === target ? 0 : -1;
  });
  bar.addEventListener('keydown', (event) => {
    const shown = items.filter((item) => !item.hidden);
    const at = shown.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const to = event.key === back ? at - 1 : event.key === forth ? at + 1 : at;
    if (to === at || at < 0) return;
    event.preventDefault();
    shown[(to + shown.length) % shown.length].focus();
  });
}

/** @param {Studio} studio */
export function bar(studio) {
  const { options } = studio;
  const act = (/** @type {string} */ action) => () => studio.act(action);
  const button = (/** @type {string} */ drawing, /** @type {string} */ text, /** @type {string} */ action) => iconButton(drawing, text, act(action), keyOf(action));
  const expand = only(button('expand', 'Expand the picture', 'expand'));
  byId('file').append(
    only(iconButton('home', 'Home: recent sessions, a new picture', () => studio.leave())),
    button('open', 'Open a picture', 'open'),
    only(button('export', 'Export', 'export')),
    expand,
  );
  studio.on('session', () => (expand.hidden = !studio.live?.facts.capabilities.any_size));
  const controls = toolOptions(studio);
  byId('options').append(...Object.values(controls));
  const show = () => {
    const has = HAS[options.values.tool] ?? [];
    for (const [name, control] of Object.entries(controls)) control.hidden = !has.includes(name) || (name === 'intoMask' && !studio.live?.facts.capabilities.inpaint);
  };
  options.on('change', (news) => 'tool' in news && show());
  studio.on('session', show);
  show();
  history(studio, button);
  looks(studio, button);
  right(studio, button);
}

/** @param {Studio} studio @returns {Record<string, HTMLElement>} */
function toolOptions({ options }) {
  const share = { least: 0, most: 1, step: 0.01, write: percent };
  return {
    size: scrub(options, 'size', 'Size', { least: 0, most: 108, step: 0.5, write: (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} px`, curve: SIZES }),
    tolerance: scrub(options, 'tolerance', 'Tolerance', { least: 0, most: 128, write: String }),
    hardness: scrub(options, 'hardness', 'Hardness', share),
    opacity: scrub(options, 'opacity', 'Opacity', { ...share, least: 0.01 }),
    smoothing: scrub(options, 'smoothing', 'Smoothing', share),
    pressure: only(check(options, 'pressureSize', 'Pen width', 'The pressure of a pen changes the width'), 'pen-only'),
    outline: check(options, 'outline', 'Outline', 'Only the outline, as wide as the brush'),
    intoMask: check(options, 'intoMask', 'Into the mask', 'Marks what is computed instead of painting'),
  };
}

/** Not shown before there is a picture, or a pen. @param {HTMLElement} element */
function only(element, when = 'picture-only') {
  element.classList.add(when);
  return element;
}

/** @typedef {(drawing: string, text: string, action: string) => HTMLButtonElement} Make */

/** @param {Studio} studio @param {Make} button */
function history(studio, button) {
  const [undo, redo] = [button('undo', 'Undo', 'undo'), button('redo', 'Redo', 'redo')];
  byId('history-buttons').append(undo, redo);
  const show = () => {
    const able = studio.able();
    undo.disabled = !able.undo;
    redo.disabled = !able.redo;
  };
  studio.on('state', show);
  show();
}

/** @param {Studio} studio @param {Make} button */
function looks(studio, button) {
  const buttons = { compare: button('compare', 'Before and after', 'compare'), difference: button('difference', 'Difference', 'difference'), region: button('region', 'Region of the last edit', 'region') };
  const frame = button('frame', 'Frame of the viewport', 'frame');
  byId('looks').append(...Object.values(buttons), frame);
  const zoom = el('button', { type: 'button', className: 'zoom', title: 'Whole picture (0)', 'aria-label': 'Whole picture', onclick: () => studio.act('fit') });
  byId('zoom').append(button('minus', 'Zoom out', 'zoom-out'), zoom, button('plus', 'Zoom in', 'zoom-in'));
  studio.stage.on('view', ({ scale }) => (zoom.textContent = `${Math.round(100 * scale)} %`));
  const show = () => {
    for (const [look, one] of Object.entries(buttons)) {
      one.setAttribute('aria-pressed', String(studio.looks.current === look));
      one.disabled = !studio.live || studio.live.tree.length < 2;
    }
    frame.hidden = !studio.live?.isCanvas;
    frame.setAttribute('aria-pressed', String(studio.options.values.frame));
  };
  studio.on('state', show);
  show();
}

/** @param {Studio} studio @param {Make} button */
function right(studio, button) {
  const live = check(studio.options, 'live', 'Live', 'An edit starts when a stroke ends');
  const apply = el('button', { type: 'button', className: 'apply', title: 'Run the edit (Ctrl+Enter)', onclick: () => studio.act('apply') }, icon('run'), el('span', {}, 'Run'));
  const doing = el('span');
  const status = el('button', { type: 'button', className: 'status', onclick: () => studio.act('cancel') }, el('i'), doing);
  byId('right-buttons').append(status, apply, only(live), only(button('panel', 'Panels', 'panels')), iconButton('theme', 'Light or dark', () => studio.nextTheme()), button('help', 'Keys', 'keys'));
  const show = () => {
    const { text, busy, level } = studio.status();
    doing.textContent = text;
    status.dataset.level = level;
    status.disabled = !busy;
    status.title = busy ? 'Cancel (Esc)' : text;
    apply.hidden = !studio.able().apply;
  };
  studio.on('state', show);
  studio.options.on('change', show);
  show();
}
