/**
 * What of a large picture is in sight: the server is told when it stays so, and records it ahead.
 * @import {Studio} from './studio.js'
 */
import { middle } from './rects.js';
import * as trees from './tree.js';

const STILL = 500;
/** Of what is in sight, what a viewport must hold: at its edge, nobody paints. */ const MIDDLE = 2 / 3;

/** @param {Studio} studio */
export function sight(studio) {
  const { stage, options } = studio;
  let waiting = 0;
  let told = '';

  /** The edge of the viewport that an edit here would be made in, else of the last one's. */
  const show = () => {
    const { live } = studio;
    if (!live?.isCanvas) return;
    const { viewport, state } = live.looking;
    const found = viewport ?? trees.find(live.tree, live.head)?.viewport ?? null;
    stage.frame(options.values.frame && found ? found.rect : null, !viewport || state === 'recorded');
  };

  const look = () => {
    const { live } = studio;
    if (!live?.isCanvas || live.connection !== 'open' || live.seen === null || live.work || studio.pointer.paints) return;
    const rect = stage.sight && middle(stage.sight, MIDDLE);
    const asked = `${rect} ${live.id} ${live.head}`;
    if (!rect || asked === told) return;
    told = asked;
    live.look(rect);
  };

  const soon = () => {
    clearTimeout(waiting);
    if (studio.live?.isCanvas) waiting = setTimeout(look, STILL);
  };

  stage.on('view', soon);
  options.on('change', (news) => 'frame' in news && show());
  studio.on('session', () => {
    const { live } = studio;
    told = '';
    if (!live?.isCanvas) return;
    live.on('looking', show);
    live.on('tree', show);
    live.on('resized', show);
    live.on('work', soon);
    live.on('connection', () => {
      told = '';
      soon();
    });
    live.on('picture', soon);
  });
}
