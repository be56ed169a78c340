/**
 * The page: puts its parts together and does what buttons and keys ask for.
 */
import { Api, ApiError } from './api.js';
import * as bars from './bar.js';
import { toHex } from './colour.js';
import { Cursor } from './cursor.js';
import * as dialogs from './dialogs.js';
import { afterFrame, byId, el } from './dom.js';
import { Emitter } from './emitter.js';
import { download, encoded, metadata } from './files.js';
import { chooseFile, inputs } from './inputs.js';
import { Live } from './live.js';
import { withLogin } from './login.js';
import { Looks } from './looks.js';
import { adopt, Opener } from './opener.js';
import { Options } from './options.js';
import { panels } from './panels.js';
import { Pointer } from './pointer.js';
import { sight } from './sight.js';
import { Socket } from './socket.js';
import { Stage } from './stage.js';
import { start } from './start.js';
import { timeline } from './timeline.js';
import { colourOf, pick, toolbox } from './tools.js';
import * as trees from './tree.js';
import { typed } from './typing.js';
import { toScreen } from './view.js';
import { left } from './words.js';

const ZOOM = 1.25;
const TURN = Math.PI / 12;
const THEMES = ['dark', 'light'];
const TOAST = 6000;
const SECOND = 1000;
const TITLE = 'Retouch Studio';
/** Milliseconds between what is shown of work that goes on: drawing it takes from what is computed. */
const TOLD = 300;
const AIMS = ['brush', 'mask', 'eraser', 'clone'];

/** @extends {Emitter<{session: null, state: null, tree: null, edited: null, model: null, refined: number}>} */
export class Studio extends Emitter {
  /** @type {Live | null} */ live = null;
  /** @type {Record<string, ReturnType<typeof toolbox>[string]>} */ #tools = {};
  /** The prompt of the version that is shown. @type {string | null} */ #prompt = null;
  #busy = false;
  #later = 0;

  constructor() {
    super();
    this.options = new Options(localStorage);
    this.api = new Api(new URL('.', location.href).href, withLogin(() => this.api));
    this.looks = new Looks(this);
    this.opener = new Opener(this);
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
    for (const part of [bars.tools, bars.bar, panels, timeline, start, sight]) part(this);
    this.options.on('change', (news) => this.#optionsChanged(news));
    this.on('state', () => this.#coming());
    this.stage.on('view', () => this.#aim());
    this.#theme();
    inputs(this);
    setInterval(() => this.#goesOn(), SECOND);
  }

  get tool() {
    return this.#tools[this.pointer.erases ? 'eraser' : this.options.values.tool] ?? null;
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
      this.fail(error);
      this.#show(null);
    }
  }

  /** @param {string} id @param {number} [job] the one that makes the session: where there is none, it says why */
  async open(id, job) {
    try {
      const facts = await this.api.session(id).catch(async (error) => {
        if (job !== undefined) await this.api.job(id, job);
        throw error;
      });
      history.replaceState(null, '', `#session=${id}`);
      adopt(this.options, { ...facts.settings, strength: this.options.values.strength });
      this.#show(new Live(this.api, facts, (address, handlers) => new Socket(address, handlers)));
    } catch (error) {
      this.fail(error);
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
    this.looks.reset();
    this.#prompt = null;
    this.#tools = live ? toolbox({
      live,
      options: this.options,
      original: () => this.looks.original(),
      changed: (rect) => rect && this.#painted(live, rect),
      shape: (path, className) => this.stage.shape(path, className),
      done: () => this.#drawn(),
      ask: (at) => typed(toScreen(this.stage.view, at), Math.min(Math.max(this.options.values.size, 6) * this.stage.view.scale, 200), this.inkColour()),
      say: (text) => this.say(text),
    }) : {};
    if (live) this.#follow(live);
    this.emit('session', null);
    if (live) this.stage.open(live);
    this.#state();
  }

  /** @param {Live} live */
  #follow(live) {
    live.on('tree', () => this.#words(live));
    live.on('tree', afterFrame(() => this.emit('tree', null)));
    live.on('paint', () => this.#state());
    live.areas.on('change', () => this.#state());
    live.on('work', () => this.#working());
    live.on('picture', () => this.#edited());
    live.on('refined', (version) => this.emit('refined', version));
    live.on('problem', (text) => this.say(text));
    live.on('connection', (state) => {
      if (state === 'refused') this.#refused(live);
      this.#state();
    });
  }

  /** The prompt follows the version that is shown, unless the person has written another. @param {Live} live */
  #words(live) {
    const prompt = trees.find(live.tree, live.head)?.prompt;
    if (typeof prompt !== 'string' || prompt === this.#prompt) return;
    const followed = this.#prompt === null || this.options.values.prompt === this.#prompt;
    this.#prompt = prompt;
    if (followed) this.options.set({ prompt });
  }

  /** @param {Live} live */
  async #refused(live) {
    const failed = await live.failure();
    this.say(failed?.message ?? 'The server has closed this session, or does not know this page any more.');
    this.api.session(live.id).then(() => live.socket.renew(), (error) => error instanceof ApiError && error.status === 404 && live === this.live && this.leave());
  }

  async remove() {
    const { live } = this;
    if (!live || !(await dialogs.confirm('Delete this session?', 'All its versions are deleted from the disk.', 'Delete'))) return;
    await this.api.json('DELETE', `api/sessions/${live.id}`).then(() => this.leave(), (error) => this.fail(error));
  }

  // Painting and editing

  /** @param {import('./types.js').Sample} pen @param {import('./tools.js').Held} held */
  #down(pen, held) {
    if (!this.live || this.live.seen === null) return;
    if (held.alt && this.options.values.tool !== 'clone') pick({ live: this.live, options: this.options }, pen);
    else this.tool?.down(pen, held);
  }

  get #intoMask() {
    return (this.options.values.tool === 'mask' || this.options.values.intoMask) && this.live?.facts.capabilities.inpaint;
  }

  /** What is painted is shown, and where edits are fast computed at once. @param {Live} live @param {import('./types.js').Rect} rect */
  #painted(live, rect) {
    this.stage.dirty(this.#area ? 'areas' : this.#intoMask ? 'mask' : 'paint', rect);
    if (this.options.values.live && this.pointer.paints && !this.#area && live.drafts.areFast) live.drafts.ask(this.#asked());
  }

  /** Whether the mask of an area is painted. */
  get #area() {
    return this.#intoMask && this.live?.areas.selected;
  }

  #drawn() {
    this.#state();
    if (this.#area) this.live?.areas.select(this.#area); // its words come next
    else if (this.options.values.live) this.act('apply');
  }

  #wanted() {
    if (this.options.values.newSeed) this.options.set({ seed: Math.floor(Math.random() * 1e6) });
    return this.#asked();
  }

  #asked() {
    const { prompt, negative, strength, soft, refine } = this.options.values;
    const { live } = this;
    const words = live?.facts.capabilities.prompt ? { prompt, negative } : {};
    const object = live?.instance != null ? { instance: live.instance } : {};
    return { ...object, ...words, strength: Math.min(strength, this.recorded()), soft, refine, seed: this.options.values.seed };
  }

  /** The most strength that edits of this session can have. */
  recorded() {
    return this.live?.facts.settings.strength ?? 1;
  }

  /** Another session of the picture as it is, recorded for more strength. */
  async recordAgain() {
    const { live, options } = this;
    if (!live) return;
    options.set({ model: live.facts.model });
    await this.opener.create(live.picture, { strength: options.values.strength });
    if (this.live !== live) this.say('Recorded again. The session before is on the first page, with all its versions.');
  }

  variants() {
    this.live?.submit({ ...this.#wanted(), n: this.options.values.variants });
  }

  /** @param {number} version */
  goto(version) {
    if (version !== this.live?.head) this.live?.goto(version);
  }

  #edited() {
    this.#state();
    this.looks.again();
    this.emit('edited', null);
  }

  async estimate() {
    const { live } = this;
    if (!live) return;
    try {
      const { version, error } = await this.api.error(live.id, live.head);
      if (error === null) return this.say('Nothing is known to estimate the error of this version from.');
      live.tree = live.tree.map((one) => (one.version === version ? { ...one, estimate: error } : one));
      this.emit('tree', null);
    } catch (error) {
      this.fail(error);
    }
  }

  // What buttons and keys ask for

  /** @param {string} action */
  act(action) {
    const { live, stage, options } = this;
    if (action.startsWith('tool:')) return options.set({ tool: action.slice(5) });
    /** @type {Record<string, () => void>} */
    const does = {
      open: () => chooseFile(this),
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
        compare: () => this.#lookAs('compare'),
        difference: () => this.#lookAs('difference'),
        region: () => this.#lookAs('region'),
        'zoom-in': () => stage.zoom(stage.view.scale * ZOOM),
        'zoom-out': () => stage.zoom(stage.view.scale / ZOOM),
        fit: () => stage.fit(),
        actual: () => stage.zoom(1 / devicePixelRatio),
        'turn-left': () => stage.turn(-TURN),
        'turn-right': () => stage.turn(TURN),
        export: () => dialogs.save(this),
        expand: () => this.#expand(live),
        frame: () => options.set({ frame: !options.values.frame }),
        name: () => this.#name(live),
      });
    }
    does[action]?.();
  }

  /** @param {import('./looks.js').Look} look */
  async #lookAs(look) {
    await this.looks.toggle(look);
    this.#state();
  }

  /** @param {Live} live */
  #cancel(live) {
    if (this.pointer.cancel()) return;
    if (live.work) live.cancel();
    else if (live.held.length || live.hasPaint) live.discard();
    else if (this.looks.current) this.#lookAs('');
    this.#state();
  }

  /** @param {Live} live */
  async #name(live) {
    const version = trees.find(live.tree, live.head);
    const name = await dialogs.line('Name this version', 'Name', version?.name ?? '', 'Name it');
    if (name !== null && version) await this.api.name(live.id, version.version, name).catch((error) => this.fail(error));
  }

  /** Of a session a canvas is made first. @param {Live} live */
  async #expand(live) {
    const sides = live.facts.capabilities.any_size && (await dialogs.expand(this));
    if (!sides) return;
    try {
      if (!live.isCanvas) {
        this.options.set({ model: live.facts.model });
        await this.opener.create(live.picture, { canvas: true });
      }
      if (this.live?.isCanvas) await this.live.expand(sides, this.#asked());
    } catch (error) {
      this.fail(error);
    }
  }

  /** @param {string} type @param {number} quality */
  async export(type, quality) {
    const { live } = this;
    if (!live) return;
    const format = type.slice(6);
    const own = !live.isCanvas && format === 'png';
    const text = metadata(live.facts, trees.find(live.tree, live.head), this.options.values);
    try {
      const file = own ? await encoded(live.picture, text) : new Blob([await this.api.bytes(this.api.file(live.id, live.head, format, quality))], { type });
      download(file, `retouch-${live.head}.${format.replace('jpeg', 'jpg')}`);
    } catch (error) {
      this.fail(error);
    }
  }

  // State and words

  inkColour() {
    return toHex(this.live ? colourOf({ live: this.live, options: this.options }) : this.options.values.colour);
  }

  able() {
    const { live } = this;
    if (!live) return { undo: false, redo: false, apply: false };
    return {
      undo: live.layers.some(({ canUndo }) => canUndo) || live.jobs.size > 0 || live.held.length > 0 || trees.parent(live.tree, live.head) !== null,
      redo: live.layers.some(({ canRedo }) => canRedo) || trees.redo(live.tree, live.head, live.latest) !== null,
      apply: !this.options.values.live || live.held.length > 0 || live.areas.ready.length > 0,
    };
  }

  /** What the server is doing, in words. @returns {{text: string, busy: boolean, level: 'idle' | 'busy' | 'bad'}} */
  status() {
    const { live } = this;
    if (!live) return { text: 'Ready', busy: false, level: 'idle' };
    if (live.connection !== 'open') return { text: live.connection === 'lost' ? 'Connecting' : 'Closed', busy: false, level: 'bad' };
    const { work } = live;
    if (!work) return live.held.length ? { text: 'Not run', busy: false, level: 'bad' } : { text: 'Ready', busy: false, level: 'idle' };
    const part = work.total > 1 ? `: ${Math.round((100 * work.done) / work.total)} %` : '';
    const does = work.text ? work.text[0].toUpperCase() + work.text.slice(1) : work.state === 'queued' ? 'Waiting' : 'Computing';
    return { text: does + part + left(work.pace.left(performance.now())) + (live.waits ? '; your edit waits' : ''), busy: true, level: 'busy' };
  }

  /** Of what takes longer the browser's tab tells, too. */
  #goesOn() {
    if (!this.live?.work) return;
    document.title = `● ${TITLE}`;
    this.emit('state', null);
  }

  /** What goes on is shown now and then, that it begins or ends at once. */
  #working() {
    if (Boolean(this.live?.work) !== this.#busy) this.#state();
    else this.#later ||= window.setTimeout(() => this.#state(), TOLD);
  }

  #state() {
    clearTimeout(this.#later);
    this.#later = 0;
    const { work } = this.live ?? {};
    this.#busy = Boolean(work);
    this.cursor.progress(work ? (work.total ? work.done / work.total : -1) : null);
    if (!work) document.title = TITLE;
    this.emit('state', null);
  }

  /** What is shown where there is no picture yet. */
  #coming() {
    const coming = this.live?.seen === null && this.live.work !== null;
    document.body.classList.toggle('coming', coming);
    byId('coming').textContent = coming ? `The picture comes here. ${this.status().text}` : '';
  }

  /** Says what went wrong. @param {unknown} error */
  fail(error) {
    this.say(error instanceof Error ? error.message : String(error));
  }

  /** Says what goes on until that is done. @template T @param {string} text @param {Promise<T>} work @returns {Promise<T>} */
  async during(text, work) {
    const toast = el('p', { className: 'toast busy' }, text);
    byId('toasts').append(toast);
    return work.finally(() => toast.remove());
  }

  /** @param {string} said */
  say(said) {
    const text = said.charAt(0).toUpperCase() + said.slice(1);
    const toast = el('p', { className: 'toast' }, text);
    const toasts = byId('toasts');
    if (toasts.lastElementChild?.textContent === text) toasts.lastElementChild.remove();
    toasts.append(toast);
    while (toasts.childElementCount > 3) toasts.firstElementChild?.remove();
    setTimeout(() => toast.remove(), TOAST);
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

}
