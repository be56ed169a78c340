/** What comes to the page as a whole: keys, files that are dropped or pasted, the divider. @import {Studio} from './studio.js' */
import { el } from './dom.js';
import { actionOf } from './keys.js';

const ACCEPTED = 'image/png,image/jpeg,image/webp,.zip';

/** @param {Studio} studio */
export function inputs(studio) {
  window.addEventListener('keydown', (event) => key(studio, event));
  window.addEventListener('paste', ({ clipboardData }) => {
    const file = [...(clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
    if (file) studio.opener.take(file);
  });
  window.addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('dragging');
  });
  window.addEventListener('dragleave', ({ relatedTarget }) => relatedTarget || document.body.classList.remove('dragging'));
  window.addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dragging');
    const file = event.dataTransfer?.files[0];
    if (file) studio.opener.take(file);
  });
  divider(studio);
}

/** @param {Studio} studio */
export function chooseFile(studio) {
  const input = el('input', { type: 'file', accept: ACCEPTED, onchange: () => input.files?.[0] && studio.opener.take(input.files[0]) });
  input.click();
}

/** @param {Studio} studio @param {KeyboardEvent} event */
function key(studio, event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.closest('input:not([type=range], [type=checkbox]), textarea, select');
  const runs = (event.ctrlKey || event.metaKey) && event.key === 'Enter';
  if (document.querySelector('dialog[open]') || (typing && !runs && event.key !== 'Escape')) return;
  if (typing && event.key === 'Escape') return target.blur();
  const action = actionOf(event);
  if (!action) return;
  event.preventDefault();
  studio.act(action);
}

/** The handle between before and after. @param {Studio} studio */
function divider({ stage }) {
  const handle = stage.divider;
  handle.addEventListener('keydown', ({ key }) => {
    const step = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[key];
    if (step) stage.divide(Number(handle.getAttribute('aria-valuenow')) + step);
  });
  handle.addEventListener('pointerdown', ({ pointerId }) => handle.setPointerCapture(pointerId));
  handle.addEventListener('pointermove', (event) => event.buttons && stage.divide((100 * stage.place(event).x) / stage.input.width));
}
