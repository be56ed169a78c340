/**
 * The page: puts its parts together and does what buttons and keys ask for.
 * @import {Point} from './types.js'
 * @import {Explanation} from './grids.js'
 * @import {Picture} from './picture.js'
 */
import { Api, ApiError } from './api.js';
import * as bars from './bar.js';
import { toHex } from './colour.js';
import { Cursor } from './cursor.js';
import * as dialogs from './dialogs.js';
import { byId, el } from './dom.js';
import { Emitter } from './emitter.js';
import { download, encoded, metadata, settingsIn } from './files.js';
import { finest, mask } from './grids.js';
import { actionOf } from './keys.js';
import { Live } from './live.js';
import { Options } from './options.js';
import { panels } from './panels.js';
import { Pointer } from './pointer.js';
import { encode } from './png.js';
import { Socket } from './socket.js';
import { Stage } from './stage.js';
import { start } from './start.js';
import { timeline } from './timeline.js';
import { colourOf, pick, toolbox } from './tools.js';
import * as trees from './tree.js';
import { toScreen } from './view.js';

const ZOOM = 1.25;
const TURN = Math.PI / 12;
const THEMES = ['dark', 'light'];
const TOAST = 6000;
const AIMS = ['brush', 'mask', 'eraser', 'clone'];

/** @extends {Emitter<{session: null, state: null, tree: null, edited: null, model: null}>} */
export class Studio extends Emitter {
  /** @type {Live | null} */ live = null;
  /** How the picture is looked at. @type {'' | 'compare' | 'difference' | 'region'} */ look = '';
  /** @type {Map<string, Picture>} */ #pictures = new Map();
  /** @type {any[] | null} */ #models = null;
  /** @type {Explanation | null} */ #explained = null;
  /** @type {Record<string, ReturnType<typeof toolbox>[string]>} */ #tools = {};
  #login = /** @type {Promise<void> | null} */ (null);

  constructor() {
    super();
    this.options = new Options(localStorage);
    this.api = new Api(new URL('.', location.href).href, (input, init) => this.#fetch(input, init));
    this.stage = new Stage(byId('canvas'));
    this.cursor = new Cursor();
    byId('stage').append(this.cursor.element);
    this.pointer = new Pointer(this.stage, {
      down: (pen, held) => this.#down(pen, held),
      move: (pens, held) => this.tool?.move(pens, held),
      up: (pen, held) => this.tool?.up(pen, held),
      cancel: () => this.tool?.cancel(),
      hover: (at) => this.cursor.show(at),
      pans: () => this.options.values.tool === 'hand',
    });
    for (const part of [bars.tools, bars.bar, panels, timeline, start]) part(this);
    this.options.on('change', (news) => this.#optionsChanged(news));
    this.stage.on('view', () => this.#aim());
    this.#theme();
    this.#listen();
  }

  get tool() {
    return this.#tools[this.options.values.tool] ?? null;
  }

  // Sessions

  /** Logs in with the link's token, opens the link's session. */
  async begin() {
    const link = new URLSearchParams(location.hash.slice(1));
    const token = link.get('token');
    const session = link.get('session');
    history.replaceState(null, '', session ? `#session=${session}` : location.pathname);
    try {
      if (token) await this.api.login(token);
      if (session) await this.open(session);
      else this.#show(null);
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
      this.#show(null);
    }
  }

  /** @param {string} id */
  async open(id) {
    try {
      const facts = await this.api.session(id);
      history.replaceState(null, '', `#session=${id}`);
      this.#adopt(facts.settings);
      this.#show(new Live(this.api, facts, (address, handlers) => new Socket(address, handlers)));
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
      if (!this.live) this.leave();
    }
  }

  leave() {
    history.replaceState(null, '', location.pathname);
    this.#show(null);
  }

  /** @param {Live | null} live */
  #show(live) {
    this.live?.close();
    this.live = live;
    this.look = '';
    this.#pictures.clear();
    this.#explained = null;
    this.#tools = live ? toolbox({
      live,
      options: this.options,
      original: () => this.#original(),
      changed: (rect) => rect && this.stage.dirty(this.#intoMask ? 'mask' : 'paint', rect),
      shape: (path, className) => this.stage.shape(path, className),
      done: () => this.#drawn(),
      ask: (at) => this.#askText(at),
      say: (text) => this.say(text),
    }) : {};
    if (live) this.#follow(live);
    this.emit('session', null);
    if (live) this.stage.open(live);
    this.#state();
  }

  /** @param {Live} live */
  #follow(live) {
    live.on('tree', () => this.emit('tree', null));
    live.on('paint', () => this.#state());
    live.on('work', () => this.#state());
    live.on('picture', () => this.#edited());
    live.on('problem', (text) => this.say(text));
    live.on('connection', (state) => {
      if (state === 'refused') this.#refused();
      this.#state();
    });
  }

  #refused() {
    this.say('The server has closed this session, or does not know this page any more.');
    this.api.session(this.live?.id ?? '').then(() => this.live?.socket.renew(), (error) => error instanceof ApiError && error.status === 404 && this.leave());
  }

  /** A session from a picture, or words alone. @param {Picture | Blob | null} source */
  async create(source) {
    try {
      const { prompt, negative, strength, seed } = this.options.values;
      const model = this.model();
      const words = model?.capabilities.prompt ? { prompt, negative } : {};
      const settings = { model: model?.name, ...words, strength, seed, generate: !source };
      const picture = source instanceof Blob ? source : source && (await encode({ width: source.width, height: source.height, channels: 3, data: source.data }));
      this.say('Opening the picture.', false);
      const { id } = await this.api.create(settings, picture);
      await this.open(id);
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }

  /** A file that was dropped, pasted or chosen: a picture, or a saved session. @param {File | Blob} file */
  async take(file) {
    if (file.type.startsWith('image/') || !(file instanceof File)) {
      const settings = file.type === 'image/png' ? await settingsIn(file) : null;
      if (settings) this.#adopt(settings);
      return this.create(file);
    }
    try {
      const { id } = await (await this.api.request('POST', 'api/archives', file)).json();
      await this.open(id);
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }

  /** From the clipboard, by the button: browsers ask the person first. */
  async paste() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((one) => one.startsWith('image/'));
        if (type) return this.take(await item.getType(type));
      }
      this.say('There is no picture in the clipboard.');
    } catch {
      this.say('The browser does not let the page read the clipboard: press Ctrl+V instead.');
    }
  }

  /** Words and figures that came with a picture or session. @param {Record<string, any>} settings */
  #adopt(settings) {
    const { values } = this.options;
    const known = /** @type {const} */ (['prompt', 'negative', 'strength', 'seed']);
    this.options.set(Object.fromEntries(known.filter((name) => typeof settings?.[name] === typeof values[name]).map((name) => [name, settings[name]])));
  }

  async remove() {
    const { live } = this;
    if (!live || !(await dialogs.confirm('Delete this session?', 'All its versions are deleted from the disk.', 'Delete'))) return;
    await this.api.json('DELETE', `api/sessions/${live.id}`).then(() => this.leave(), (error) => this.say(error.message));
  }

  /** @returns {Promise<any[]>} */
  async models() {
    return (this.#models ??= await this.api.models());
  }

  /** The chosen model. @returns {any} */
  model() {
    const list = this.#models ?? [];
    return list.find(({ name }) => name === this.options.values.model) ?? list[0];
  }

  // Painting and editing

  /** @param {import('./types.js').Sample} pen @param {import('./tools.js').Held} held */
  #down(pen, held) {
    if (!this.live) return;
    if (held.alt && this.options.values.tool !== 'clone') {
      return pick({ ...this.#table, live: this.live }, pen);
    }
    this.tool?.down(pen, held);
  }

  /** @type {any} */
  get #table() {
    return { options: this.options };
  }

  get #intoMask() {
    return (this.options.values.tool === 'mask' || this.options.values.intoMask) && this.live?.facts.capabilities.inpaint;
  }

  #drawn() {
    this.#state();
    if (this.options.values.live) this.act('apply');
  }

  #wanted() {
    const { prompt, negative, strength, soft, refine, newSeed } = this.options.values;
    if (newSeed) this.options.set({ seed: Math.floor(Math.random() * 1e6) });
    const words = this.live?.facts.capabilities.prompt ? { prompt, negative } : {};
    return { ...words, strength, soft, refine, seed: this.options.values.seed };
  }

  variants() {
    this.live?.submit({ ...this.#wanted(), n: this.options.values.variants });
  }

  /** @param {number} version */
  goto(version) {
    if (version !== this.live?.head) this.live?.goto(version);
  }

  #edited() {
    this.#explained = null;
    this.#state();
    this.#lookAgain();
    this.emit('edited', null);
  }

  async estimate() {
    const { live } = this;
    if (!live) return;
    try {
      const { estimate, error } = await this.api.error(live.id, live.head);
      live.tree = live.tree.map((one) => (one.version === live.head ? { ...one, estimate: estimate ?? error } : one));
      this.emit('tree', null);
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
    }
  }

  // Looking

  /** @param {'' | 'compare' | 'difference' | 'region'} look */
  async #setLook(look) {
    this.look = this.look === look ? '' : look;
    this.stage.compare(null);
    this.stage.difference(null);
    this.stage.region(null);
    await this.#lookAgain();
    this.#state();
  }

  async #lookAgain() {
    const { live, look } = this;
    if (!live || !look) return;
    if (look === 'region') {
      const found = await this.explanation();
      const grid = found && finest(found.grids);
      if (this.look === look) this.stage.region(grid ? mask(grid) : null);
      return;
    }
    const before = trees.parent(live.tree, live.head) ?? live.head;
    const picture = await this.#picture(before);
    if (!picture || this.look !== look) return;
    if (look === 'compare') this.stage.compare(picture);
    else this.stage.difference(picture);
  }

  /** @param {number} version @param {'' | 'input'} kind */
  async #picture(version, kind = '') {
    const key = `${version}${kind}`;
    try {
      const kept = this.#pictures.get(key) ?? (await this.live?.version(version, kind));
      if (kept) this.#pictures.set(key, kept);
      if (this.#pictures.size > 4) this.#pictures.delete([...this.#pictures.keys()][0]);
      return kept ?? null;
    } catch (error) {
      this.say(/** @type {Error} */ (error).message);
      return null;
    }
  }

  async #original() {
    const root = this.live?.tree.find(({ parent }) => parent === null);
    return root ? this.#picture(root.version, this.live?.hasInput ? 'input' : '') : null;
  }

  /** What the last edit computed; null before there was one. @returns {Promise<Explanation | null>} */
  async explanation() {
    if (!this.live) return null;
    try {
      this.#explained ??= await this.api.explain(this.live.id);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) this.say(/** @type {Error} */ (error).message);
    }
    return this.#explained;
  }

  // What buttons and keys ask for

  /** @param {string} action */
  act(action) {
    const { live, stage, options } = this;
    if (action.startsWith('tool:')) return options.set({ tool: action.slice(5) });
    /** @type {Record<string, () => void>} */
    const does = {
      open: () => this.#chooseFile(),
      keys: () => dialogs.keys(),
      panels: () => options.set({ panels: !options.values.panels }),
      swap: () => options.swap(),
      smaller: () => options.set({ size: Math.max(options.values.size / ZOOM, 1) }),
      larger: () => options.set({ size: Math.min(options.values.size * ZOOM, 512) }),
      softer: () => options.set({ hardness: Math.max(options.values.hardness - 0.1, 0) }),
      harder: () => options.set({ hardness: Math.min(options.values.hardness + 0.1, 1) }),
      prompt: () => document.getElementById('prompt')?.focus(),
    };
    if (live) {
      Object.assign(does, {
        undo: () => live.undo(),
        redo: () => live.redo(),
        apply: () => live.submit(this.#wanted()),
        cancel: () => this.#cancel(live),
        compare: () => this.#setLook('compare'),
        difference: () => this.#setLook('difference'),
        region: () => this.#setLook('region'),
        'zoom-in': () => stage.zoom(stage.view.scale * ZOOM),
        'zoom-out': () => stage.zoom(stage.view.scale / ZOOM),
        fit: () => stage.fit(),
        actual: () => stage.zoom(1 / devicePixelRatio),
        'turn-left': () => stage.turn(-TURN),
        'turn-right': () => stage.turn(TURN),
        export: () => dialogs.save(this),
        name: () => this.#name(live),
      });
    }
    does[action]?.();
  }

  /** @param {Live} live */
  #cancel(live) {
    if (this.pointer.cancel()) return;
    if (live.work) live.cancel();
    else if (live.held.length || live.hasPaint) live.discard();
    else if (this.look) this.#setLook(this.look);
    this.#state();
  }

  /** @param {Live} live */
  async #name(live) {
    const version = trees.find(live.tree, live.head);
    const name = await dialogs.line('Name this version', 'Name', version?.name ?? '', 'Name it');
    if (name !== null && version) await this.api.name(live.id, version.version, name).catch((error) => this.say(error.message));
  }

  #chooseFile() {
    const input = el('input', { type: 'file', accept: 'image/png,image/jpeg,image/webp,.zip,.tar', onchange: () => input.files?.[0] && this.take(input.files[0]) });
    input.click();
  }

  /** @param {string} type @param {number} quality */
  async export(type, quality) {
    const { live } = this;
    if (!live) return;
    const text = metadata(live.facts, trees.find(live.tree, live.head), this.options.values);
    download(await encoded(live.picture, type, quality, text), `retouch-${live.head}.${type.slice(6).replace('jpeg', 'jpg')}`);
  }

  /** Text to be painted, typed where it will be. @param {Point} at @returns {Promise<string | null>} */
  #askText(at) {
    const where = toScreen(this.stage.view, at);
    const input = el('textarea', { className: 'typing', rows: 1, 'aria-label': 'Text; Enter paints it, Escape does not' });
    const size = Math.min(Math.max(this.options.values.size, 6) * this.stage.view.scale, 200);
    Object.assign(input.style, { left: `${where.x}px`, top: `${where.y}px`, fontSize: `${size}px`, color: this.inkColour() });
    byId('stage').append(input);
    input.focus();
    return new Promise((done) => {
      const end = (/** @type {string | null} */ text) => {
        input.onblur = null;
        input.remove();
        this.stage.element.focus();
        done(text);
      };
      input.onblur = () => end(input.value.trim() ? input.value : null);
      input.onkeydown = (event) => {
        event.stopPropagation();
        if (event.key === 'Escape') end(null);
        if (event.key === 'Enter' && !event.shiftKey) end(input.value.trim() ? input.value : null);
      };
    });
  }

  // State and words

  inkColour() {
    return toHex(this.live ? colourOf(/** @type {any} */ ({ live: this.live, options: this.options })) : this.options.values.colour);
  }

  able() {
    const { live } = this;
    if (!live) return { undo: false, redo: false, apply: false };
    return {
      undo: live.paint.canUndo || live.mask.canUndo || live.jobs.size > 0 || live.held.length > 0 || trees.parent(live.tree, live.head) !== null,
      redo: live.paint.canRedo || live.mask.canRedo || trees.redo(live.tree, live.head, live.latest) !== null,
      apply: !this.options.values.live || live.held.length > 0,
    };
  }

  /** What the server is doing, in words. @returns {{text: string, busy: boolean, level: 'idle' | 'busy' | 'bad'}} */
  status() {
    const { live } = this;
    if (!live) return { text: 'Ready', busy: false, level: 'idle' };
    if (live.connection !== 'open') return { text: live.connection === 'lost' ? 'Connecting' : 'Closed', busy: false, level: 'bad' };
    const { work } = live;
    if (!work) return live.held.length ? { text: 'Not run', busy: false, level: 'bad' } : { text: 'Ready', busy: false, level: 'idle' };
    const part = work.total ? ` ${Math.round((100 * work.done) / work.total)} %` : '';
    return { text: `${work.text || (work.state === 'queued' ? 'Waiting' : 'Computing')}${part}`, busy: true, level: 'busy' };
  }

  #state() {
    const { work } = this.live ?? {};
    this.cursor.progress(work ? (work.total ? work.done / work.total : -1) : null);
    document.title = work ? '● Retouch Studio' : 'Retouch Studio';
    this.emit('state', null);
  }

  /** @param {string} text @param {boolean} stays whether it is shown for a while */
  say(text, stays = true) {
    const toast = el('p', { className: 'toast' }, text);
    const toasts = byId('toasts');
    if (toasts.lastElementChild?.textContent === text) toasts.lastElementChild.remove();
    toasts.append(toast);
    while (toasts.childElementCount > 3) toasts.firstElementChild?.remove();
    setTimeout(() => toast.remove(), stays ? TOAST : TOAST / 3);
  }

  /** @param {Partial<import('./options.js').Values>} news */
  #optionsChanged(news) {
    if ('theme' in news || 'panels' in news) this.#theme();
    if ('tool' in news || 'size' in news) this.#aim();
    if (news.tool === 'eraser') /** @type {any} */ (this.tool)?.prepare?.();
    this.#state();
  }

  #theme() {
    document.documentElement.dataset.theme = this.options.values.theme;
    document.body.classList.toggle('no-panels', !this.options.values.panels);
  }

  nextTheme() {
    this.options.set({ theme: THEMES[(THEMES.indexOf(this.options.values.theme) + 1) % THEMES.length] });
  }

  /** The ring as large as the brush. */
  #aim() {
    const { tool, size } = this.options.values;
    const aims = AIMS.includes(tool);
    this.cursor.size(aims ? (size * this.stage.view.scale) / 2 : 0);
    this.stage.element.dataset.tool = tool;
  }

  // The browser

  /** Asks for the token when it is missing, then once again. @param {RequestInfo | URL} input @param {RequestInit} [init] @returns {Promise<Response>} */
  async #fetch(input, init) {
    const response = await fetch(input, init);
    if (response.status !== 401 || String(input).endsWith('/login')) return response;
    await (this.#login ??= this.#askToken().finally(() => (this.#login = null)));
    return fetch(input, init);
  }

  async #askToken() {
    for (;;) {
      const token = await dialogs.line('Log in', 'Token: the part after #token= in the address that retouch studio printed', '', 'Log in');
      if (token === null) return;
      try {
        await this.api.login(token.trim().replace(/^.*#token=/, ''));
        return;
      } catch (error) {
        this.say(/** @type {Error} */ (error).message);
      }
    }
  }

  #listen() {
    window.addEventListener('keydown', (event) => this.#key(event));
    window.addEventListener('paste', (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
      if (file) this.take(file);
    });
    window.addEventListener('dragover', (event) => {
      event.preventDefault();
      document.body.classList.add('dragging');
    });
    window.addEventListener('dragleave', (event) => !event.relatedTarget && document.body.classList.remove('dragging'));
    window.addEventListener('drop', (event) => {
      event.preventDefault();
      document.body.classList.remove('dragging');
      const file = event.dataTransfer?.files[0];
      if (file) this.take(file);
    });
    this.stage.divider.addEventListener('keydown', (event) => this.#divider(event));
    this.stage.divider.addEventListener('pointerdown', (event) => this.stage.divider.setPointerCapture(event.pointerId));
    this.stage.divider.addEventListener('pointermove', (event) => {
      const { live } = this;
      if (event.buttons && live) this.stage.divide((100 * this.stage.place(event).x) / live.input.width);
    });
  }

  /** @param {KeyboardEvent} event */
  #divider(event) {
    const step = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
    if (step) this.stage.divide(Number(this.stage.divider.getAttribute('aria-valuenow')) + step);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const typing = target.closest('input:not([type=range], [type=checkbox]), textarea, select');
    const chord = event.ctrlKey || event.metaKey;
    if (document.querySelector('dialog[open]') || (typing && !(chord && event.key === 'Enter') && event.key !== 'Escape')) return;
    if (typing && event.key === 'Escape') return target.blur();
    const action = actionOf(event);
    if (!action) return;
    event.preventDefault();
    this.act(action);
  }
}

export const studio = new Studio();
studio.begin();
