/** Keys and what they do. A key is written as in the list on `?`: "Ctrl+Shift+Z"; Ctrl is also Cmd on a Mac. */

/** @typedef {{keys: string[], action: string, text: string, group: string}} Binding */

/** @type {Binding[]} */
export const BINDINGS = [
  ...[
    ['B', 'brush', 'Brush'],
    ['E', 'eraser', 'Eraser'],
    ['G', 'fill', 'Fill'],
    ['R', 'rectangle', 'Rectangle'],
    ['O', 'ellipse', 'Ellipse'],
    ['L', 'lasso', 'Lasso'],
    ['S', 'clone', 'Clone stamp (Alt picks the source)'],
    ['I', 'eyedropper', 'Eyedropper'],
    ['M', 'mask', 'Mask brush'],
    ['T', 'text', 'Text'],
    ['H', 'hand', 'Hand'],
  ].map(([key, tool, text]) => ({ keys: [key], action: `tool:${tool}`, text, group: 'Tools' })),
  { keys: ['['], action: 'smaller', text: 'Smaller brush', group: 'Brush' },
  { keys: [']'], action: 'larger', text: 'Larger brush', group: 'Brush' },
  { keys: ['{'], action: 'softer', text: 'Softer brush', group: 'Brush' },
  { keys: ['}'], action: 'harder', text: 'Harder brush', group: 'Brush' },
  { keys: ['X'], action: 'swap', text: 'Swap colours', group: 'Brush' },
  { keys: ['Ctrl+Z'], action: 'undo', text: 'Undo', group: 'Edit' },
  { keys: ['Ctrl+Shift+Z', 'Ctrl+Y'], action: 'redo', text: 'Redo', group: 'Edit' },
  { keys: ['Ctrl+Enter'], action: 'apply', text: 'Run the edit', group: 'Edit' },
  { keys: ['Escape'], action: 'cancel', text: 'Cancel; again: discard the paint', group: 'Edit' },
  { keys: ['C'], action: 'compare', text: 'Compare before and after', group: 'Look' },
  { keys: ['D'], action: 'difference', text: 'Difference', group: 'Look' },
  { keys: ['V'], action: 'region', text: 'Region of the last edit', group: 'Look' },
  { keys: ['F'], action: 'frame', text: 'Frame of the viewport (large pictures)', group: 'Look' },
  { keys: ['+', '=', 'Ctrl++', 'Ctrl+='], action: 'zoom-in', text: 'Zoom in', group: 'Look' },
  { keys: ['-', 'Ctrl+-'], action: 'zoom-out', text: 'Zoom out', group: 'Look' },
  { keys: ['0', 'Ctrl+0'], action: 'fit', text: 'Whole picture', group: 'Look' },
  { keys: ['1', 'Ctrl+1'], action: 'actual', text: 'Pixel by pixel', group: 'Look' },
  { keys: [','], action: 'turn-left', text: 'Turn left', group: 'Look' },
  { keys: ['.'], action: 'turn-right', text: 'Turn right', group: 'Look' },
  { keys: ['Ctrl+O'], action: 'open', text: 'Open a picture', group: 'File' },
  { keys: ['Ctrl+S'], action: 'export', text: 'Export', group: 'File' },
  { keys: ['Shift+E'], action: 'expand', text: 'Expand the picture', group: 'File' },
  { keys: ['P'], action: 'prompt', text: 'To the prompt', group: 'Panels' },
  { keys: ['Tab'], action: '', text: 'To the next control', group: 'Panels' },
  { keys: ['\\'], action: 'panels', text: 'Panels off and on', group: 'Panels' },
  { keys: ['F2'], action: 'name', text: 'Name this version', group: 'Panels' },
  { keys: ['?'], action: 'keys', text: 'This list', group: 'Panels' },
];

/** What is done with the pointer, for the list. @type {[string, string][]} */
export const GESTURES = [
  ['Space + drag', 'Pan'],
  ['Ctrl + wheel', 'Zoom'],
  ['Wheel, Shift + wheel', 'Pan up and down, left and right'],
  ['Two fingers', 'Pan, zoom, rotate'],
  ['Shift + click', 'Straight line from the last point'],
  ['Shift + drag', 'Square, circle'],
  ['Other end of a pen', 'Eraser'],
  ['Alt + click', 'Pick a colour; with the clone stamp its source'],
  ['Arrows on the picture', 'Move the pen (Shift: by one pixel)'],
  ['Enter on the picture', 'Pen down, pen up'],
];

/** @typedef {{key: string, ctrlKey: boolean, metaKey: boolean, shiftKey: boolean, altKey: boolean}} KeyPress */

/** As it is written above. @param {KeyPress} press */
export function written({ key, ctrlKey, metaKey, shiftKey, altKey }) {
  const named = key.length > 1;
  const letter = /^[a-z]$/i.test(key);
  const parts = [];
  if (ctrlKey || metaKey) parts.push('Ctrl');
  if (altKey) parts.push('Alt');
  if (shiftKey && (named || letter)) parts.push('Shift');
  return [...parts, letter ? key.toUpperCase() : key].join('+');
}

const ACTIONS = new Map(BINDINGS.flatMap(({ keys, action }) => keys.map((key) => /** @type {const} */ ([key, action]))));

/** What a key does, null for others. @param {KeyPress} press */
export const actionOf = (press) => ACTIONS.get(written(press)) || null;

/** The key of an action for titles. @param {string} action */
export const keyOf = (action) => BINDINGS.find((binding) => binding.action === action)?.keys[0] ?? '';
