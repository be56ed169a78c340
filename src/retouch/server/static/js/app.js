/** Starts the page. */
import { Studio } from './studio.js';

export const studio = new Studio();
studio.begin();
