/** The page: a picture, a slider over the widths, answers. */

import { DrawingField } from "awn/drawing.js";
import { embedded, load } from "awn/litert.js";
import { Model, TOLERANCE } from "awn/model.js";
import { decode, drawn, grab, stretch, toInput } from "awn/pixels.js";
import { plot } from "awn/plot.js";
import { Problem, textOf } from "awn/problem.js";

const TOP = 5;
// Up to the size of the digits of MNIST pixels are shown as squares.
const FEW_PIXELS = 64;

const config = JSON.parse(document.getElementById("config").textContent);
const find = (id) => document.getElementById(id);
const slider = find("width");

let core;
let model;
/** What the network gets, and the classes it named last. */
let values;
let ranking = [];
/** What `measure` told, by engine and signature. */
let times = new Map();
let stream;
let shownUrl;
let field;

// ----------------------------------------------------------------------- one at a time

let last = Promise.resolve();
/** Runs after all that was asked for before: LiteRT does one thing at a time. */
function queued(work) {
  const result = last.then(work);
  last = result.catch(() => {});
  return result;
}

function tell(error) {
  if (!(error instanceof Problem)) console.error(error);
  const text = textOf(error);
  find("problem").textContent = error instanceof Problem ? text : `Something failed: ${text}`;
  find("problem").hidden = false;
  find("problem").scrollIntoView({ block: "nearest" });
}

function forget() {
  find("problem").hidden = true;
}

/** A listener that tells what goes wrong. */
function safely(work) {
  return async (event) => {
    try {
      await work(event);
    } catch (error) {
      tell(error);
    }
  };
}

// --------------------------------------------------------------------------- the model

async function start() {
  core = await load(config);
  find("status").textContent = "Loading the network…";
  await open(await content(), config.model);
}

async function content() {
  if (config.embedded) return embedded("model");
  let response;
  try {
    // Another export may have taken its place.
    response = await fetch(config.model, { cache: "no-cache" });
  } catch (error) {
    throw new Problem(`“${config.model}” could not be loaded: ${textOf(error)}.`);
  }
  if (!response.ok) {
    throw new Problem(
      `“${config.model}” could not be loaded: the server says ${response.status}. It ` +
        "must lie beside this page.",
    );
  }
  return new Uint8Array(await response.arrayBuffer());
}

async function open(bytes, name) {
  await queued(async () => {
    const opened = await Model.open(core, bytes, name);
    stopCamera();
    model?.close();
    model = opened;
    values = undefined;
    ranking = [];
    times = new Map();
  });
  describe();
  find("status").hidden = true;
  document.querySelector("main").hidden = false;
  if (model.drawing) field.paint();
}

function describe() {
  const { widths, input, drawing, manifest, labels, output } = model;
  const several = widths.length > 1;
  find("lead").textContent = several
    ? `One file with ${widths.length} networks in it, from width ${widths[0].width} to ` +
      `${widths.at(-1).width}. Move the slider: a narrow width is faster, a wide width is ` +
      "more accurate."
    : "A file of one width.";
  find("chooser").hidden = find("all").hidden = !several;
  slider.max = widths.length - 1;
  slider.value = widths.length - 1;
  find("ticks").replaceChildren(
    ...widths.map(({ width }) => made("span", { textContent: String(width) })),
  );
  find("drawing").hidden = !drawing;
  // In another scale than photos, as scikit-learn's digits of 0 to 16, none makes sense.
  find("photos").hidden = Boolean(drawing) && drawing.ink !== 255;
  find("photo").hidden = find("seen").hidden = true;
  find("hint").hidden = false;
  field.lines = [];
  find("seen").querySelector("figcaption").textContent =
    `What the network gets: ${input.rows} x ${input.cols} pixels` +
    (input.channels === 1 ? " in grey" : "");
  find("facts").textContent = [
    model.name,
    `${(model.bytes.length / 1e3).toLocaleString("en", { maximumFractionDigits: 0 })} kB`,
    manifest.precision,
    `${output.classes} classes${labels.length ? "" : " without names"}`,
    `input ${input.rows} x ${input.cols} x ${input.channels}, ${input.dtype}`,
    input.dtype === "uint8" ? "" : `(pixels - ${list(input.mean)}) / ${list(input.std)}`,
    `LiteRT.js ${config.version}`,
  ]
    .filter(Boolean)
    .join(" · ");
  find("comparison").hidden = true;
  find("compare").disabled = true;
  find("gpu").hidden = true;
  find("try-gpu").hidden = !core.getWebGpuDevice();
  find("gpu-says").textContent = find("try-gpu").hidden
    ? "This browser gives no access to a GPU."
    : "Before you can choose the GPU, the page compares its answers with those of the processor.";
  document.querySelector("input[value=wasm]").checked = true;
  showWidth();
  showAnswer();
}

function list(numbers) {
  const short = numbers.map((n) => Number(n.toPrecision(4)));
  return short.length > 1 ? `[${short.join(", ")}]` : short[0];
}

// --------------------------------------------------------------------------- answering

const chosen = () => model.widths[slider.value];
const timeOf = (signature) => times.get(`${model.engine} ${signature}`);

let turn = 0;
/** Answers at the chosen width; of several that wait only the last is done. */
async function answer() {
  const mine = ++turn;
  showWidth();
  if (!values) return;
  await queued(async () => {
    if (mine !== turn || !values) return;
    const { signature } = chosen();
    ranking = await model.rank(signature, values);
    showAnswer();
    if (!timeOf(signature)) await measure(signature, values, () => mine !== turn);
    showWidth();
  });
}

async function measure(signature, picture, unwanted) {
  const time = await model.measure(signature, picture, unwanted);
  if (time) times.set(`${model.engine} ${signature}`, time);
}

function showWidth() {
  const { width, macs, signature } = chosen();
  const full = model.widths.at(-1);
  find("chosen").textContent = String(width);
  slider.setAttribute("aria-valuetext", String(width));
  find("macs").textContent = macs ? count(macs) : "not known";
  find("share").textContent = !macs
    ? ""
    : signature === full.signature
      ? "the full width"
      : `${percentOf(macs, full.macs)} % of the full width's`;
  const time = timeOf(signature);
  find("time").textContent = time ? `${milliseconds(time.ms)} ms` : "–";
  find("runs").textContent = time ? `median of ${time.runs} runs, here` : "";
}

function showAnswer() {
  find("none").hidden = ranking.length > 0;
  find("compare").disabled = !values;
  find("answers").replaceChildren(
    ...ranking.slice(0, TOP).map(({ label, probability }) => {
      const item = made("li");
      item.append(
        made("span", { className: "label", textContent: label }),
        made("span", { className: "percent", textContent: percent(probability) }),
        made("span", { className: "bar" }),
      );
      item.lastChild.style.setProperty("--share", probability);
      item.lastChild.setAttribute("aria-hidden", "true");
      return item;
    }),
  );
}

function showInput(pixels) {
  const { rows, cols, channels } = model.input;
  const canvas = find("input");
  canvas.width = cols;
  canvas.height = rows;
  const image = new ImageData(cols, rows);
  const { paper, ink } = (channels === 1 && model.drawing) || { paper: 0, ink: 255 };
  for (let i = 0; i < rows * cols; i++) {
    for (let k = 0; k < 3; k++) {
      const pixel = pixels[i * channels + (channels === 3 ? k : 0)];
      image.data[4 * i + k] = (255 * (pixel - paper)) / (ink - paper);
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.classList.toggle("coarse", Math.max(rows, cols) <= FEW_PIXELS);
  canvas.style.setProperty("--aspect", cols / rows);
  find("seen").hidden = false;
}

async function take(pixels) {
  forget();
  // It was about another picture. (The camera's changes all the time.)
  if (!stream) find("comparison").hidden = true;
  values = toInput(pixels, model.input);
  showInput(pixels);
  await answer();
}

async function takePhoto(photo) {
  const { rows, cols, channels } = model.input;
  await take(stretch(photo, rows, cols, channels));
}

// ---------------------------------------------------------------------------- pictures

async function choose(file) {
  if (!file) return;
  if (file.name?.toLowerCase().endsWith(".tflite")) {
    forget();
    await open(new Uint8Array(await file.arrayBuffer()), file.name);
    return;
  }
  if (!model || find("photos").hidden) return;
  const photo = await decode(file);
  stopCamera();
  URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(file);
  find("photo").src = shownUrl;
  find("photo").hidden = false;
  find("hint").hidden = true;
  await takePhoto(photo);
}

async function startCamera() {
  forget();
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Problem(
      "The browser gives a page its camera only over https, or from this device " +
        "(localhost).",
    );
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
  } catch (error) {
    throw new Problem(
      error.name === "NotAllowedError"
        ? "The camera was not allowed. Allow it in the browser's settings for this page."
        : `No camera can be used here. (${textOf(error)})`,
    );
  }
  const video = find("video");
  video.srcObject = stream;
  await video.play();
  video.hidden = false;
  find("photo").hidden = find("hint").hidden = true;
  find("camera").textContent = "Stop the camera";
  find("camera").setAttribute("aria-pressed", "true");
  // A screen reader would never come to an end.
  find("answers").setAttribute("aria-live", "off");
  watch(stream);
}

async function watch(mine) {
  const video = find("video");
  while (stream === mine) {
    if (video.videoWidth) {
      await safely(() => takePhoto(grab(video, video.videoWidth, video.videoHeight)))();
    }
    await new Promise((done) => setTimeout(done, 100));
  }
}

function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = undefined;
  find("video").hidden = true;
  find("video").srcObject = null;
  find("hint").hidden = false;
  find("camera").textContent = "Use the camera";
  find("camera").setAttribute("aria-pressed", "false");
  find("answers").setAttribute("aria-live", "polite");
}

async function drew() {
  if (!model) return;
  if (!field.lines.length) {
    values = undefined;
    ranking = [];
    find("seen").hidden = true;
    showAnswer();
    return;
  }
  await take(drawn(field.lines, model.input, model.drawing));
}

// --------------------------------------------------------------------------- comparing

async function compare() {
  forget();
  const picture = values;
  const rows = [];
  find("compare").disabled = true;
  find("compare").textContent = "Running…";
  try {
    await queued(async () => {
      for (const one of model.widths) {
        const [best] = await model.rank(one.signature, picture);
        await measure(one.signature, picture);
        rows.push({ ...one, best, ms: timeOf(one.signature).ms });
      }
    });
  } finally {
    find("compare").textContent = "Compare all widths";
    find("compare").disabled = false;
  }
  const full = rows.at(-1).best.index;
  for (const row of rows) row.same = row.best.index === full;
  find("plot").replaceChildren(
    plot(rows, short),
    made("p", {
      className: "small",
      textContent:
        "A full mark: the same answer as the full width. A hollow one: another answer.",
    }),
  );
  find("comparison").querySelector("tbody").replaceChildren(...rows.map(tableRow));
  find("comparison").hidden = false;
  showWidth();
}

function tableRow({ width, macs, ms, best, same }) {
  const row = made("tr");
  row.append(
    made("th", { scope: "row", textContent: String(width) }),
    ...[macs ? short(macs) : "–", milliseconds(ms), best.label]
      .concat(percent(best.probability).replace(" %", ""), same ? "yes" : "no")
      .map((textContent) => made("td", { textContent })),
  );
  return row;
}

// --------------------------------------------------------------------------------- GPU

async function checkGpu() {
  const button = find("try-gpu");
  const says = find("gpu-says");
  const { rows, cols, channels } = model.input;
  // The picture at hand, or noise.
  const noise = Uint8Array.from({ length: rows * cols * channels }, (_, i) => (i * 7919) % 251);
  const input = values ?? toInput(noise, model.input);
  button.disabled = true;
  says.textContent = "Comparing…";
  try {
    const difference = await queued(() => model.compareGpu(input));
    const told = `largest difference ${difference.toExponential(0)}, in three runs of each width`;
    const right = difference <= TOLERANCE;
    says.textContent = right
      ? `The GPU answers as the processor does: ${told}.`
      : `The GPU of this device gives other answers, so you cannot choose it: ${told}.`;
    find("gpu").hidden = !right;
    button.hidden = true;
  } catch (error) {
    says.textContent = textOf(error);
    button.hidden = true;
  } finally {
    button.disabled = false;
  }
}

// ------------------------------------------------------------------------------- words

function percentOf(part, whole) {
  const percents = (100 * part) / whole;
  return percents < 1 ? percents.toPrecision(1) : percents.toFixed(0);
}

function made(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

function count(number) {
  return scaled(number, [[1e9, "\u00a0billion"], [1e6, "\u00a0million"]]);
}

function short(number) {
  return scaled(number, [[1e9, "\u00a0G"], [1e6, "\u00a0M"], [1e3, "\u00a0k"]]);
}

function scaled(number, units) {
  const [unit, name] = units.find(([size]) => number >= size) ?? [1, ""];
  const digits = name ? { maximumSignificantDigits: 3 } : {};
  return (number / unit).toLocaleString("en", digits) + name;
}

function milliseconds(ms) {
  return ms >= 100 ? ms.toFixed(0) : ms.toPrecision(2);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

// -------------------------------------------------------------------------------- wiring

field = new DrawingField(find("paper"), safely(drew));
slider.addEventListener("input", safely(answer));
find("clear").addEventListener("click", () => field.clear());
find("compare").addEventListener("click", safely(compare));
find("try-gpu").addEventListener("click", safely(checkGpu));
find("camera").addEventListener("click", safely(() => (stream ? stopCamera() : startCamera())));
for (const id of ["file", "other"]) {
  find(id).addEventListener(
    "change",
    safely(async ({ target }) => {
      try {
        await choose(target.files[0]);
      } finally {
        target.value = ""; // so that the same file may be chosen again
      }
    }),
  );
}
for (const engine of document.querySelectorAll("[name=engine]")) {
  engine.addEventListener(
    "change",
    safely(async () => {
      model.engine = engine.value;
      await answer();
    }),
  );
}
addEventListener("dragover", (event) => {
  event.preventDefault();
  find("drop").classList.add("over");
});
addEventListener("dragleave", () => find("drop").classList.remove("over"));
addEventListener(
  "drop",
  safely(async (event) => {
    event.preventDefault();
    find("drop").classList.remove("over");
    await choose(event.dataTransfer.files[0]);
  }),
);

/** For the console, and for tests. */
self.awn = {
  get model() {
    return model;
  },
  get values() {
    return values;
  },
  /** What a signature gives for numbers as the file takes them. */
  run: async (signature, numbers) => {
    const kind = model.input.dtype === "uint8" ? Uint8Array : Float32Array;
    return Array.from(await queued(() => model.run(signature, kind.from(numbers))));
  },
  /** Resolves when all that was asked for is done. */
  idle: () => queued(() => {}),
};

try {
  await start();
} catch (error) {
  find("status").hidden = true;
  tell(error);
}
document.documentElement.dataset.ready = "yes";
