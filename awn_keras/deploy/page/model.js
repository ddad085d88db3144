/** A file of several widths: what it says of itself, and running it. */

import { Problem, textOf } from "awn/problem.js";
import { attached } from "awn/zip.js";

// Clocks of browsers tick in steps of up to a millisecond.
const SHORTEST_MEASUREMENT = 5;
const LONGEST_MEASURING = 600;
const MEASUREMENTS = 9;
const WARM_UP = 60;
// Rounded to 8 bits, probabilities of many classes do not add up to 1 exactly.
const ABOUT_ONE = 0.05;
/** Largest difference of engines, relative to the largest output if that exceeds 1. */
export const TOLERANCE = 1e-3;

export class Model {
  /**
   * Opens a file.
   * @param {object} core The module of LiteRT.js.
   * @param {Uint8Array} bytes
   * @param {string} name What to call it.
   * @return {Promise<Model>}
   */
  static async open(core, bytes, name) {
    // An identifier that all flatbuffers of TFLite have.
    if (new TextDecoder("latin1").decode(bytes.subarray(4, 8)) !== "TFL3") {
      throw new Problem(`“${name}” is not a TFLite file.`);
    }
    const files = attached(bytes);
    const manifest = parsed(files.get("awn.json"));
    await checkWhole(bytes, manifest.flatbuffer, name);
    const model = new Model(core, bytes, name, manifest, files.get("labels.txt"));
    await model.compile("wasm");
    return model;
  }

  constructor(core, bytes, name, manifest, labels) {
    this.core = core;
    this.bytes = bytes;
    this.name = name;
    this.manifest = manifest;
    this.labels = labels ? lines(new TextDecoder().decode(labels)) : [];
    /** What ran the file last: "wasm" or "webgpu". */
    this.engine = "wasm";
    this.compiled = {};
  }

  /** Compiles all widths for an engine. */
  async compile(engine) {
    let compiled;
    try {
      compiled = await this.core.loadAndCompile(this.bytes.slice(), {
        accelerator: engine,
        // Half precision would be another network.
        gpuOptions: { precision: "fp32" },
      });
    } catch (error) {
      throw new Problem(
        engine === "wasm"
          ? `“${this.name}” is damaged, or of a kind that LiteRT.js cannot run. (${textOf(error)})`
          : `The GPU does not run this file. (${textOf(error)})`,
      );
    }
    this.compiled[engine] = compiled;
    if (engine === "wasm") this.describe(compiled.signatures);
    return compiled;
  }

  /** Finds widths, input and output. */
  describe(signatures) {
    const rows = new Map((this.manifest.widths ?? []).map((row) => [row.signature, row]));
    this.widths = Object.keys(signatures)
      .map((signature) => ({ signature, width: widthOf(signature) }))
      .filter(({ width }) => width)
      .sort((a, b) => a.width - b.width)
      .map((one) => ({ ...one, macs: macsOf(rows.get(one.signature)) }));
    if (!this.widths.length) {
      throw new Problem(
        `“${this.name}” has no signature for a width, such as width_050, but: ` +
          `${Object.keys(signatures).join(", ") || "none"}.`,
      );
    }
    const runner = signatures[this.widths.at(-1).signature];
    this.input = this.inputOf(runner.getInputDetails());
    this.output = this.outputOf(runner.getOutputDetails());
    this.drawing = drawingOf(this.manifest.metadata?.drawing, this.input);
  }

  inputOf(inputs) {
    const [input] = inputs;
    const [batch, rows, cols, channels] = input.shape;
    const isImage = input.shape.length === 4 && batch === 1 && [1, 3].includes(channels);
    if (inputs.length > 1 || !isImage) {
      throw new Problem(
        `This page is for files that take one image. “${this.name}” takes ` +
          `${inputs.map((one) => `${one.name} (${[...one.shape].join(" x ")})`).join(", ")}.`,
      );
    }
    const said = (this.manifest.inputs ?? []).find((one) => one.name === input.name);
    const { mean, std } = said?.pixels ?? {};
    if (input.dtype !== "uint8" && !(mean && std)) {
      throw new Problem(
        `“${this.name}” does not say how pixels become its inputs. Export it with ` +
          "normalization, or with uint8 inputs.",
      );
    }
    return { name: input.name, dtype: input.dtype, rows, cols, channels, mean, std };
  }

  outputOf(outputs) {
    const [output] = outputs;
    if (outputs.length > 1 || output.shape.length !== 2 || output.dtype !== "float32") {
      throw new Problem(
        `This page is for files that give one score a class. “${this.name}” gives ` +
          `${outputs.map((one) => `${one.name} (${[...one.shape].join(" x ")})`).join(", ")}.`,
      );
    }
    const said = (this.manifest.outputs ?? []).find((one) => one.name === output.name);
    return { name: output.name, classes: output.shape[1], scores: said?.scores };
  }

  /** The name of a class; its number if the file has no names. */
  label(index) {
    return this.labels.length === this.output.classes ? this.labels[index] : String(index);
  }

  /**
   * Runs one width.
   * @param {string} signature
   * @param {Uint8Array|Float32Array} values rows x cols x channels
   * @param {string=} engine
   * @return {Promise<Float32Array>} What the file gives, (classes,).
   */
  async run(signature, values, engine = this.engine) {
    const { rows, cols, channels, name } = this.input;
    const tensor = new this.core.Tensor(values, [1, rows, cols, channels]);
    try {
      const outputs = await this.compiled[engine].run(signature, { [name]: tensor });
      const output = outputs[this.output.name];
      const scores = Float32Array.from(await output.data());
      output.delete();
      return scores;
    } finally {
      if (!tensor.deleted) tensor.delete();
    }
  }

  /**
   * Runs one width, and ranks classes.
   * @return {Promise<{index: number, label: string, probability: number}[]>} All
   *     classes, the most likely first.
   */
  async rank(signature, values) {
    const probabilities = this.probabilities(await this.run(signature, values));
    return Array.from(probabilities, (probability, index) => ({
      index,
      label: this.label(index),
      probability,
    })).sort((a, b) => b.probability - a.probability || a.index - b.index);
  }

  /** Turns what the file gives into probabilities. */
  probabilities(scores) {
    const sum = scores.reduce((a, b) => a + b, 0);
    const looksRight = scores.every((s) => s >= 0) && Math.abs(sum - 1) <= ABOUT_ONE;
    const kind = this.output.scores ?? (looksRight ? "probabilities" : "logits");
    if (kind === "probabilities") return scores;
    const largest = Math.max(...scores);
    const powers = scores.map((s) => Math.exp(s - largest));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((p) => p / total);
  }

  /**
   * Measures what one run takes, with copying in and out.
   * @param {function(): boolean} unwanted Whether to give up, as nobody waits for it.
   * @return {Promise<{ms: number, runs: number}|undefined>} The median, and of how many
   *     runs.
   */
  async measure(signature, values, unwanted = () => false) {
    const timed = async (runs) => {
      const start = performance.now();
      for (let i = 0; i < runs; i++) await this.run(signature, values);
      return (performance.now() - start) / runs;
    };
    // A first run prepares the width, and browsers compile what is run often.
    const start = performance.now();
    let count = 0;
    while (!count || performance.now() - start < WARM_UP) {
      await timed(1);
      count++;
    }
    const once = Math.max((performance.now() - start) / count, 0.01);
    const runs = Math.ceil(SHORTEST_MEASUREMENT / once);
    const enough = Math.floor(LONGEST_MEASURING / (runs * once));
    const times = [];
    for (let i = 0; i < Math.min(MEASUREMENTS, Math.max(3, enough)); i++) {
      await new Promise((done) => setTimeout(done)); // the page stays alive
      if (unwanted()) return undefined;
      times.push(await timed(runs));
    }
    times.sort((a, b) => a - b);
    return { ms: times[times.length >> 1], runs: runs * times.length };
  }

  /**
   * Compares the GPU with the processor, on each width. Some GPUs are right the first
   * time only, some never.
   * @param {Uint8Array|Float32Array} values
   * @return {Promise<number>} The largest difference.
   */
  async compareGpu(values) {
    const compiled = this.compiled.webgpu ?? (await this.compile("webgpu"));
    if (!compiled.isFullyAccelerated) {
      throw new Problem("The GPU runs only parts of this file.");
    }
    let difference = 0;
    for (const { signature } of this.widths) {
      const wanted = await this.run(signature, values, "wasm");
      const largest = Math.max(1, ...wanted.map(Math.abs));
      for (let i = 0; i < 3; i++) {
        const scores = await this.run(signature, values, "webgpu");
        // NaN is larger than any tolerance.
        const far = Math.max(...scores.map((s, k) => Math.abs(s - wanted[k]) / largest));
        difference = Math.max(difference, Number.isNaN(far) ? Infinity : far);
      }
    }
    return difference;
  }

  /** Frees memory. */
  close() {
    for (const compiled of Object.values(this.compiled)) compiled.delete();
    this.compiled = {};
  }
}

/** The width that a signature's name tells, or nothing: see awn_keras.widths. */
function widthOf(signature) {
  const match = /^width_(\d{3})(?:_(\d{1,6}))?$/.exec(signature);
  return match ? Number(`${match[1]}.${match[2] ?? 0}`) / 100 : undefined;
}

function macsOf(row) {
  // A part of them would be taken for all.
  return row?.uncounted?.length ? undefined : (row?.executed_macs ?? row?.macs);
}

function parsed(json) {
  try {
    const manifest = JSON.parse(json ? new TextDecoder().decode(json) : "{}");
    return manifest && typeof manifest === "object" ? manifest : {};
  } catch {
    return {};
  }
}

function lines(text) {
  return text.replace(/\r?\n$/, "").split(/\r?\n/);
}

/** What a drawing is made of, if the file is for drawings. */
function drawingOf(said, { channels }) {
  if (channels !== 1 || !Number.isFinite(said?.ink)) return undefined;
  return { paper: said.paper ?? 0, ink: said.ink, margin: said.margin ?? 0 };
}

async function checkWhole(bytes, said, name) {
  // Only where the page came over a safe way is there a digest.
  if (!said?.sha256 || !globalThis.crypto?.subtle) return;
  const digest = await crypto.subtle.digest("SHA-256", bytes.subarray(0, said.bytes));
  const found = Array.from(new Uint8Array(digest), (b) => b.toString(16).padStart(2, "0"));
  if (found.join("") !== said.sha256) {
    throw new Problem(`“${name}” is damaged: it is not what its own manifest says.`);
  }
}
