/**
 * Where the versions of a session stand: columns are how many edits lie behind them, rows are branches.
 * @import {Version} from './types.js'
 * @typedef {{version: Version, column: number, row: number}} Node
 * @typedef {{from: Node, to: Node}} Edge
 */

/**
 * The first child of a version stays in its row; each further one opens a row below all that its elders used.
 * @param {Version[]} tree parents before children @returns {{nodes: Node[], edges: Edge[], columns: number, rows: number}}
 */
export function layout(tree) {
  /** @type {Map<number | null, Version[]>} */
  const children = new Map();
  const known = new Set(tree.map(({ version }) => version));
  for (const version of tree) {
    const parent = version.parent !== null && known.has(version.parent) ? version.parent : null;
    children.set(parent, [...(children.get(parent) ?? []), version]);
  }
  /** @type {Node[]} */
  const nodes = [];
  /** @type {Edge[]} */
  const edges = [];
  let rows = 0;
  /** @type {{version: Version, parent: Node | null, fresh: boolean}[]} */
  const open = (children.get(null) ?? []).map((version) => ({ version, parent: null, fresh: true })).reverse();
  for (let next = open.pop(); next; next = open.pop()) {
    const { version, parent, fresh } = next;
    const node = { version, column: parent ? parent.column + 1 : 0, row: fresh || !parent ? rows++ : parent.row };
    nodes.push(node);
    if (parent) edges.push({ from: parent, to: node });
    const below = (children.get(version.version) ?? []).map((child, i) => ({ version: child, parent: node, fresh: i > 0 }));
    open.push(...below.reverse());
  }
  return { nodes, edges, columns: Math.max(0, ...nodes.map(({ column }) => column + 1)), rows };
}

/** @param {Version[]} tree @param {number} version */
export const find = (tree, version) => tree.find((v) => v.version === version) ?? null;

/** The version that undo goes to. @param {Version[]} tree @param {number} head @returns {number | null} */
export const parent = (tree, head) => find(tree, head)?.parent ?? null;

/**
 * The version that redo goes to: towards `latest` where it lies behind `head`, else the youngest child.
 * @param {Version[]} tree @param {number} head @param {number | null} latest @returns {number | null}
 */
export function redo(tree, head, latest) {
  for (let at = latest; at !== null; at = parent(tree, at)) {
    if (parent(tree, at) === head) return at;
  }
  return tree.filter((v) => v.parent === head).at(-1)?.version ?? null;
}

/** Versions with the parent of `head`, itself among them: what may be chosen instead. @param {Version[]} tree @param {number} head */
export function siblings(tree, head) {
  const behind = parent(tree, head);
  return behind === null ? [] : tree.filter((v) => v.parent === behind);
}
