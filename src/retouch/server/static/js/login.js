/** Asking for the token where the server wants one. @import {Api} from './api.js' */
import { line } from './dialogs.js';

const HINT = 'Paste the address that retouch studio printed, or the part of it after #token=.';

/** `fetch` that asks the person for the token when the server refuses (401), and then once again. @param {() => Api} api @returns {typeof fetch} */
export function withLogin(api) {
  /** @type {Promise<void> | null} */
  let asking = null;
  return async (input, init) => {
    const response = await fetch(input, init);
    if (response.status !== 401 || String(input).endsWith('/login')) return response;
    await (asking ??= ask(api()).finally(() => (asking = null)));
    return fetch(input, init);
  };
}

/** That of an address, else the text itself. @param {string} text */
const tokenIn = (text) => new URLSearchParams(text.split('#').at(-1)).get('token') ?? text;

/** @param {Api} api */
async function ask(api) {
  for (let hint = HINT; ; hint = `That was not it. ${HINT}`) {
    const token = await line('Log in', 'Token', '', 'Log in', hint);
    if (token === null) return;
    const accepted = await api.login(tokenIn(token.trim())).then(() => true, () => false);
    if (accepted) return;
  }
}
