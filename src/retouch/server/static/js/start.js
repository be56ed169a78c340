/**
 * What is shown before there is a picture: open, paste, generate, samples, sessions from before.
 * @import {Studio} from './studio.js'
 */
import { words } from './controls.js';
import { afterFrame, byId, context, el, icon, imageData } from './dom.js';
import { encode } from './png.js';
import { labelled, samples } from './samples.js';
import { ago } from './words.js';

const SIDE = 512;
const SHOWN = 192;
const LABELLED = 256;

/** @param {Studio} studio */
export function start(studio) {
  const element = byId('start');
  studio.on('session', () => {
    element.hidden = Boolean(studio.live);
    document.body.classList.toggle('empty', !studio.live);
    if (!studio.live) draw(studio, element).catch((error) => studio.fail(error));
  });
}

/** @param {Studio} studio @param {HTMLElement} element */
async function draw(studio, element) {
  const models = await studio.opener.models();
  const recent = el('div', { className: 'cards', role: 'group', 'aria-label': 'Recent sessions' });
  const title = el('h2', { hidden: true }, 'Recent');
  element.replaceChildren(el('div', { className: 'start' }, drop(studio), modelChoice(studio, models), generate(studio), el('h2', {}, 'Or begin with'), sampleCards(studio), title, recent));
  const sessions = await studio.api.sessions();
  title.hidden = !sessions.length;
  recent.append(...sessions.slice(0, 12).map((session) => sessionCard(studio, session)));
}

/** @param {Studio} studio */
function drop(studio) {
  const open = el('button', { type: 'button', className: 'wide main', onclick: () => studio.act('open') }, icon('open'), 'Open a picture');
  const takes = el('p', { className: 'quiet' });
  const say = () => (takes.textContent = taken(studio.opener.model()));
  studio.on('model', say);
  say();
  const paste = el('button', { type: 'button', className: 'wide', onclick: () => studio.opener.paste() }, 'Paste');
  return el('div', { className: 'drop' }, el('p', { className: 'lead' }, 'Drop a picture here'), takes, el('div', { className: 'row centre' }, open, paste));
}

/** What a model takes, in words. @param {any} model */
function taken(model) {
  const { labels, scale, any_size: any } = model?.capabilities ?? {};
  if (labels) return 'A map of labels, as grey levels, or a saved session: this model sees it whole. Then paint: only what you paint is computed.';
  if (scale > 1) return `A small picture, or a saved session: this model makes it ${scale} times as large, and sees it whole.`;
  return `PNG, JPEG, WebP${any ? ' of any size' : ''}, or a saved session. Only what you paint is computed.`;
}

/** @param {Studio} studio @param {any[]} models */
function modelChoice(studio, models) {
  const { options } = studio;
  const select = el('select', {}, ...models.map(({ name }) => el('option', { value: name }, name)));
  select.value = studio.opener.model()?.name ?? '';
  select.onchange = () => {
    options.set({ model: select.value });
    studio.emit('model', null);
  };
  return el('label', { className: 'field model', hidden: models.length < 2 }, el('span', {}, 'Model'), select);
}

/** @param {Studio} studio */
function generate(studio) {
  const prompt = words(studio.options, 'prompt', 'Prompt', 'Words for a new picture');
  const make = el('button', { type: 'submit', className: 'wide' }, 'Generate');
  const form = el('form', { className: 'generate', onsubmit: (/** @type {Event} */ event) => {
    event.preventDefault();
    studio.opener.create(null);
  } }, prompt, make);
  const show = () => {
    const model = studio.opener.model();
    form.hidden = !model?.capabilities.generate;
    prompt.hidden = !model?.capabilities.prompt;
  };
  studio.on('model', show);
  show();
  return form;
}

/** @param {Studio} studio */
function sampleCards(studio) {
  const small = samples(SHOWN, SHOWN);
  const canvases = small.map(() => el('canvas', { width: SHOWN, height: SHOWN }));
  const cards = small.map(({ name }, i) => {
    const begin = async () => {
      const { size, capabilities } = studio.opener.model() ?? {};
      const side = capabilities?.labels ? LABELLED : SIDE / (capabilities?.scale ?? 1);
      const [height, width] = size ?? [side, side];
      const made = samples(width, height)[i].picture();
      const { labels } = capabilities ?? {};
      studio.opener.create(labels ? await encode({ width, height, channels: 1, data: labelled(made, labels) }) : made);
    };
    return el('button', { type: 'button', className: 'card', onclick: begin }, canvases[i], el('span', {}, name));
  });
  fill(canvases, small);
  return el('div', { className: 'cards large', role: 'group', 'aria-label': 'Sample pictures' }, ...cards);
}

/** Samples take a while to compute: what else is there is shown before each. @param {HTMLCanvasElement[]} canvases @param {ReturnType<typeof samples>} small */
async function fill(canvases, small) {
  for (const [i, { picture }] of small.entries()) {
    await new Promise((done) => afterFrame(() => done(null))());
    const shown = picture();
    context(canvases[i]).putImageData(imageData(shown.rgba(shown.whole), SHOWN), 0, 0);
  }
}

/** @param {Studio} studio @param {{id: string, model: string, thumb?: string, modified?: string}} session */
function sessionCard(studio, { id, model, thumb, modified }) {
  const when = modified ? ago(Date.now() - new Date(modified).getTime()) : id.slice(0, 8);
  const image = el('img', { src: studio.api.url(thumb?.replace(/^\//, '') ?? ''), alt: '', loading: 'lazy' });
  return el('button', { type: 'button', className: 'card', title: model, onclick: () => studio.open(id) }, image, el('span', {}, when));
}
