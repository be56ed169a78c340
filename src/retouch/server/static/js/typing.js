/** Text that is to be painted, typed where it will be. @import {Point} from './types.js' */
import { byId, el } from './dom.js';

/** What was typed, null when it was given up. @param {Point} at from the corner of the stage @param {number} size in CSS pixels @param {string} colour @returns {Promise<string | null>} */
export function typed(at, size, colour) {
  const input = el('textarea', { className: 'typing', rows: 1, 'aria-label': 'Text; Enter paints it, Escape does not' });
  Object.assign(input.style, { left: `${at.x}px`, top: `${at.y}px`, fontSize: `${size}px`, color: colour });
  byId('stage').append(input);
  input.focus();
  return new Promise((done) => {
    const end = (/** @type {string} */ text) => {
      input.onblur = null;
      input.remove();
      byId('canvas').focus();
      done(text.trim() ? text : null);
    };
    input.onblur = () => end(input.value);
    input.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === 'Escape') end('');
      if (event.key === 'Enter' && !event.shiftKey) end(input.value);
    };
  });
}
