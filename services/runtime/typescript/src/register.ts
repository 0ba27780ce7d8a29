/**
 * Lets this process import TypeScript: types are blanked out and nothing is checked, so lines stay where they are. A Node that
 * does so by itself is left alone.
 */

import { register } from "node:module";

if (!(process.features as { typescript?: unknown }).typescript) register("./strip.js", import.meta.url);
