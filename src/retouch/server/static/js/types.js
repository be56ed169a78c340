/**
 * Shapes of data that several modules share. Pixels are rows from the top; rectangles are in pixels of the picture.
 *
 * @typedef {[left: number, top: number, width: number, height: number]} Rect
 * @typedef {{x: number, y: number}} Point
 * @typedef {{x: number, y: number, pressure: number}} Sample A place of the pen; pressure from 0 to 1.
 * @typedef {[red: number, green: number, blue: number]} RGB From 0 to 255.
 *
 * @typedef {{index: number, name: string, colour: RGB | string}} Label
 * @typedef {{prompt: boolean, inpaint: boolean, variants: boolean, areas?: boolean, instances?: boolean, canvas?: boolean, any_size?: boolean, labels: Label[] | null, scale: number}} Capabilities
 * @typedef {{version: number, parent: number | null, name: string | null, prompt: string | null, edit: string | null,
 *   share: number | null, seconds: number | null, saved: number | null, estimate: number | null, refined?: string | null, viewport?: Made | null}} Version
 * @typedef {{rect: Rect, scale: number}} Viewport What a model sees of a canvas, and how many of its pixels for one of that.
 * @typedef {Viewport & {way: string, why: string}} Made
 * @typedef {{viewport: Viewport | null, state: 'recorded' | 'recording' | 'none', done?: number, total?: number}} Looking
 * @typedef {{id: string, kind: string, model: string, size: [height: number, width: number],
 *   settings: Record<string, any>, head: number, tree: Version[], bytes: number, capabilities: Capabilities}} SessionFacts
 * @typedef {{type?: string, title?: string, status?: number, detail?: string}} Problem
 *
 * @typedef {{kind: 'preview' | 'result' | 'refined' | 'head' | 'picture', job: number | null, version: number | null, rect: Rect,
 *   encoding: 'png' | 'webp' | 'raw', bytes?: number, size?: [height: number, width: number], moved?: [left: number, top: number] | null, step?: number, steps?: number, seconds?: number, saved?: number, share?: number}} FrameHeader
 * @typedef {{header: FrameHeader, bytes: Uint8Array<ArrayBuffer>}} Frame
 *
 * @typedef {{prompt: string, negative: string, strength: number, seed: number, soft: boolean, refine: boolean}} EditSettings
 */
export {};
