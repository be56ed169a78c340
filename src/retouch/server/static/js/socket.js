/** A WebSocket that comes back by itself: after a lost connection, a closed lid, a server that starts anew. */

const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 8000;
const FORGOTTEN = 20_000;

/**
 * @typedef {{
 *   message: (data: string | ArrayBuffer) => void,
 *   state: (state: 'open' | 'lost' | 'refused', code: number) => void,
 * }} Handlers `refused`: by a code of 4401 to 4499, which trying again does not change.
 */

export class Socket {
  /** @type {WebSocket | null} */ #socket = null;
  #pause = FIRST_PAUSE;
  #timer = 0;
  #hidden = 0;
  #stop = new AbortController();

  /** @param {() => string} address asked for at every attempt @param {Handlers} handlers */
  constructor(address, handlers) {
    this.address = address;
    this.handlers = handlers;
    const { signal } = this.#stop;
    window.addEventListener('online', () => this.renew(), { signal });
    document.addEventListener('visibilitychange', () => this.#seen(), { signal });
    this.#connect();
  }

  close() {
    this.#stop.abort();
    clearTimeout(this.#timer);
    this.#drop();
  }

  /** Connects anew at once: the server tells what was missed. */
  renew() {
    clearTimeout(this.#timer);
    this.#pause = FIRST_PAUSE;
    this.#drop();
    this.#connect();
  }

  #seen() {
    if (document.hidden) this.#hidden = Date.now();
    else if (Date.now() - this.#hidden > FORGOTTEN) this.renew();
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #connect() {
    const socket = new WebSocket(this.address());
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    const current = () => socket === this.#socket;
    socket.onopen = () => {
      if (!current()) return;
      this.#pause = FIRST_PAUSE;
      this.handlers.state('open', 0);
    };
    socket.onmessage = ({ data }) => current() && this.handlers.message(data);
    socket.onclose = ({ code }) => current() && this.#lost(code);
  }

  /** @param {number} code */
  #lost(code) {
    this.#socket = null;
    const refused = code >= 4401 && code < 4500;
    this.handlers.state(refused ? 'refused' : 'lost', code);
    if (refused) return;
    this.#timer = window.setTimeout(() => this.#connect(), this.#pause * (0.75 + Math.random() / 2));
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
  }
}
