/**
 * The panel of colours: two of them, sliders, those used before; for models of labels their palette.
 * @import {Label, RGB} from './types.js'
 * @import {Options} from './options.js'
 */
import { fromHSV, toHex, toHSV, toRGB } from './colour.js';
import { el, iconButton } from './dom.js';

/** @param {Options} options */
export function colours(options) {
  const [front, back] = ['Colour', 'Other colour'].map((text) => el('button', { type: 'button', className: 'swatch', 'aria-label': text, title: text }));
  back.onclick = () => options.swap();
  const hex = el('input', { type: 'text', className: 'hex', 'aria-label': 'Colour as #rrggbb', maxLength: 7, spellcheck: false });
  front.onclick = () => hex.select();
  hex.onchange = () => setHex(options, hex);
  const recent = el('div', { className: 'recent', role: 'group', 'aria-label': 'Colours used before' });
  let hsv = toHSV(options.values.colour);
  const sliders = ['Hue', 'Saturation', 'Brightness'].map((text, i) => {
    const input = el('input', { type: 'range', min: 0, max: 1, step: 0.001, className: `track ${text.toLowerCase()}`, 'aria-label': text });
    input.oninput = () => {
      hsv[i] = Number(input.value);
      options.set({ colour: fromHSV(...hsv) });
    };
    return input;
  });
  const element = el('div', { className: 'colours' }, el('div', { className: 'pair' }, front, back, iconButton('swap', 'Swap colours', () => options.swap(), 'X'), hex), ...sliders, recent);
  const show = () => {
    const { colour, other } = options.values;
    if (String(fromHSV(...hsv)) !== String(colour)) hsv = toHSV(colour);
    sliders.forEach((slider, i) => (slider.value = String(hsv[i])));
    for (const [name, value] of Object.entries({ '--front': toHex(colour), '--back': toHex(other), '--hue': toHex(fromHSV(hsv[0], 1, 1)), '--full': toHex(fromHSV(hsv[0], hsv[1], 1)), '--grey': toHex(fromHSV(0, 0, hsv[2])), '--rich': toHex(fromHSV(hsv[0], 1, hsv[2])) })) {
      element.style.setProperty(name, value);
    }
    hex.value = toHex(colour);
    recent.replaceChildren(...options.values.recent.map((one) => chip(options, one)));
  };
  options.on('change', (news) => ('colour' in news || 'other' in news || 'recent' in news) && show());
  show();
  return element;
}

/** @param {Options} options @param {HTMLInputElement} hex */
function setHex(options, hex) {
  try {
    options.set({ colour: toRGB(hex.value) });
  } catch {
    hex.value = toHex(options.values.colour);
  }
}

/** @param {Options} options @param {RGB} colour */
function chip(options, colour) {
  const button = el('button', { type: 'button', className: 'chip', 'aria-label': `Colour ${toHex(colour)}`, title: toHex(colour), onclick: () => options.set({ colour }) });
  button.style.setProperty('--front', toHex(colour));
  return button;
}

/** @param {Options} options @param {Label[]} labels */
export function palette(options, labels) {
  const list = el('div', { className: 'labels', role: 'listbox', 'aria-label': 'Labels' });
  const items = labels.map((label) => {
    const item = el('button', { type: 'button', role: 'option', className: 'label', onclick: () => options.set({ label: label.index }) }, el('i', {}), el('span', {}, label.name));
    item.style.setProperty('--front', toHex(toRGB(label.colour)));
    return item;
  });
  list.append(...items);
  const filter = el('input', { type: 'search', placeholder: 'Find a label', 'aria-label': 'Find a label' });
  filter.oninput = () => items.forEach((item, i) => (item.hidden = !labels[i].name.toLowerCase().includes(filter.value.trim().toLowerCase())));
  const show = () => items.forEach((item, i) => item.setAttribute('aria-selected', String(labels[i].index === options.values.label)));
  options.on('change', (news) => 'label' in news && show());
  if (!labels.some(({ index }) => index === options.values.label)) options.set({ label: labels[0].index });
  show();
  return el('div', { className: 'palette' }, filter, list);
}
