/** LiteRT.js: from beside the page, from the CDN, or out of the page itself. */

import { Problem, textOf } from "awn/problem.js";

// The smallest module with an instruction for 128 bits.
const SIMD = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0],
  ...[65, 0, 253, 15, 253, 98, 11],
);

/**
 * @param {{embedded: boolean, wasm: string}} config
 * @return {Promise<object>} The module `@litertjs/core`, ready to compile.
 */
export async function load(config) {
  if (typeof WebAssembly !== "object") {
    throw new Problem(
      "This browser has no WebAssembly, or it is switched off (as in the lockdown mode " +
        "of iPhones). The page needs it.",
    );
  }
  if (!WebAssembly.validate(SIMD)) {
    throw new Problem(
      "This browser has no SIMD for WebAssembly: Chrome 91, Firefox 89, Safari 16.4, or " +
        "later have it.",
    );
  }
  try {
    const core = await import("@litertjs/core");
    await core.loadLiteRt(await glue(config));
    return core;
  } catch (error) {
    const where = config.embedded ? "this page" : new URL(config.wasm, location.href).href;
    throw new Problem(
      `LiteRT.js could not be loaded from ${where}. Is a file missing there, or are you ` +
        `offline? (${textOf(error)})`,
    );
  }
}

async function glue(config) {
  if (!config.embedded) return new URL(config.wasm, location.href).href;
  // The loader runs a script, which looks here for its settings, and takes a path for
  // that of a script by its ending.
  self.Module = { wasmBinary: await embedded("wasm") };
  const script = new Blob([await embedded("glue")], { type: "text/javascript" });
  return `${URL.createObjectURL(script)}#.js`;
}

/**
 * What the page holds, gzipped.
 * @param {string} name
 * @return {Promise<Uint8Array>}
 */
export async function embedded(name) {
  const element = document.getElementById(`embedded-${name}`);
  const text = atob(element.textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  element.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
